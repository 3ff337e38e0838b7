"""FCN on a dilated encoder, in the form of torchvision and mmsegmentation."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_aux_heads,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ConvNorm, Dropout, Head
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size


class FCNHead(nn.Module):
    """Features to maps of a quarter of their channels: 3x3 convolution, normalization, ReLU, dropout.

    The last feature makes the first map, and those before it the maps of auxiliary heads.

    Attributes:
        aux_heads: Number of auxiliary maps, coarse to fine.
        dropout: Rate of dropout, in training.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        The head of torchvision's fcn_resnet50, https://docs.pytorch.org/vision/stable/models/fcn.html;
        the auxiliary one comes from Zhao et al., Pyramid Scene Parsing Network, 2016,
        https://arxiv.org/abs/1612.01105. Initialization: Kaiming over fan-in.

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
        """Maps each of the last features to `[N, h, w, max(1, C // 4)]`, the last one first."""
        del size
        check_aux_heads(self.aux_heads, len(features))
        maps = []
        for i, x in enumerate(reversed(features[-1 - self.aux_heads :])):
            x = ConvNorm(
                max(1, x.shape[-1] // 4),
                kernel_init=kaiming_fan_in,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"map{i}",
            )(x, train=train)
            maps.append(Dropout(self.dropout)(x, train=train))
        return tuple(maps)


def fcn(
    *,
    num_classes: int,
    encoder: Encoder,
    aux_heads: int = 1,
    dropout: float = 0.1,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """FCN in the form of torchvision: a head on the last feature, and an auxiliary one before it.

    On `encoders.resnet50(output_stride=8)` it is torchvision's `fcn_resnet50`, whose weights load;
    mmsegmentation calls this network FCN-R50-D8.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; torchvision's has an output stride of 8.
        aux_heads: Number of features before the last that have an auxiliary head; 0 for none.
        dropout: Rate of dropout before the last convolution of each head, in training.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder does not have the features for `aux_heads`.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038, on a dilated ResNet and without skips.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = fcn(num_classes=21, encoder=encoders.resnet50(output_stride=8))
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    35322218
    """
    check_encoder(encoder)
    check_aux_heads(aux_heads, len(encoder.strides))
    types = inherit_dtypes(encoder, dtype, param_dtype)
    head = partial(Head, check_num_classes(num_classes), kernel_size=1, **types)
    return SegmentationModel(
        encoder,
        FCNHead(aux_heads, dropout, **types),
        head(),
        tuple(head() for _ in range(aux_heads)),
        make_image_head(image_labels, types),
    )


MODELS = {"fcn": fcn}
