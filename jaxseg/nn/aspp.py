"""Atrous spatial pyramid pooling: one map seen by convolutions of several dilations."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.nn.blocks import ConvNorm, kaiming_fan_out
from jaxseg.nn.dropout import Dropout
from jaxseg.typing import Array


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: branches with different fields of view, concatenated and projected.

    The branches are a 1x1 convolution, a dilated 3x3 convolution for each rate, and the mean of the map followed by a 1x1
    convolution. A 1x1 convolution projects their concatenation. Each convolution is followed by batch normalization and a
    ReLU, and the last by dropout.

    Attributes:
        features: Channels of every branch and of the result.
        rates: Dilations of the 3x3 convolutions in pixels of the map.
        conv: Makes the 3x3 convolutions: `ConvNorm` or `SeparableConv`.
        dropout: Rate of dropout of single values of the result, in training.
        kernel_init: Initializer of all kernels; by default Kaiming's normal over fan-out.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters and running statistics.

    Raises:
        InputError: There is no rate, or one below 1.

    References:
        Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017,
        https://arxiv.org/abs/1706.05587, section 3.3. As in torchvision and smp, the mean's branch is normalized over the
        batch; dropout is not in the paper.

    >>> import jax
    >>> block = ASPP(8, rates=(2, 4))
    >>> y, variables = block.init_with_output(jax.random.key(0), jnp.ones((1, 5, 7, 3)))
    >>> y.shape, sorted(variables["params"])
    ((1, 5, 7, 8), ['branch0', 'branch1', 'branch2', 'pool', 'project'])
    """

    features: int = 256
    rates: tuple[int, ...] = (12, 24, 36)
    conv: Callable[..., Any] = ConvNorm
    dropout: float = 0.5
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        check_rates(self.rates)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`."""
        fields = {
            "kernel_init": self.kernel_init,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        pointwise = partial(ConvNorm, self.features, 1, **fields)
        branches = [pointwise(name="branch0")(x, train=train)]
        for i, rate in enumerate(self.rates, start=1):
            conv = self.conv(self.features, dilation=rate, name=f"branch{i}", **fields)
            branches.append(conv(x, train=train))
        mean = pointwise(name="pool")(x.mean((1, 2), keepdims=True), train=train)
        branches.append(jnp.broadcast_to(mean, branches[0].shape))
        y = pointwise(name="project")(jnp.concatenate(branches, axis=-1), train=train)
        return Dropout(self.dropout)(y, train=train)


def check_rates(rates: Iterable[int]) -> tuple[int, ...]:
    """Returns the rates of a pyramid as a tuple.

    Raises:
        InputError: There is none, or one below 1.

    >>> check_rates([6, 12])
    (6, 12)
    """
    rates = tuple(rates)
    if not rates or min(rates) < 1:
        raise InputError(
            f"rates={rates}: ASPP needs at least one rate, and a rate is a distance of at least 1 pixel"
        )
    return rates
