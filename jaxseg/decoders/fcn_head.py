"""The FCN head of torchvision and mmsegmentation: one convolution on a dilated encoder's features."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size


class FCNHead(nn.Module):
    """Features to maps of a quarter of their channels: 3x3 convolution, normalisation, ReLU, dropout.

    The last feature makes the first map, and those before it the maps of auxiliary heads.

    Attributes:
        aux_heads: How many auxiliary maps there are, coarse to fine.
        dropout: Rate of dropout, in training.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        The head of torchvision's fcn_resnet50, https://docs.pytorch.org/vision/stable/models/fcn.html;
        the auxiliary one comes from Zhao et al., Pyramid Scene Parsing Network, 2016,
        https://arxiv.org/abs/1612.01105. Initialisation: Kaiming over fan-in.

    >>> import jax
    >>> features = [jnp.zeros((1, 4, 6, 8)), jnp.zeros((1, 4, 6, 32))]
    >>> def run(features):
    ...     return FCNHead().init_with_output(jax.random.key(0), features, (32, 48))[0]
    >>> [x.shape for x in jax.eval_shape(run, features)]
    [(1, 4, 6, 8), (1, 4, 6, 2)]
    """

    aux_heads: int = 1
    dropout: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps `features` to one `[N, h, w, max(1, C // 4)]` for each of the last ones."""
        del size
        if not 0 <= self.aux_heads < len(features):
            raise InputError(
                f"aux_heads={self.aux_heads}: with {len(features)} features there can be 0 to "
                f"{len(features) - 1}"
            )
        maps = []
        for i, x in enumerate(reversed(features[-1 - self.aux_heads :])):
            x = ConvNorm(
                max(1, x.shape[-1] // 4),
                kernel_init=kaiming_fan_in,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"map{i}",
            )(x, train=train)
            maps.append(nn.Dropout(self.dropout, deterministic=not train)(x))
        return tuple(maps)
