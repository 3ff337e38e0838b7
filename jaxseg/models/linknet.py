"""LinkNet on any encoder, in the form of segmentation_models.pytorch."""

from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import BatchNorm, ConvNorm, Head, TransposedConv
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size


class TransposedConvNorm(nn.Module):
    """Transposed convolution to a size, batch normalization and ReLU.

    With variables made by `jaxseg.inference.fold_batch_norm` there is no normalization.
    """

    features: int
    factor: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Size, *, train: bool) -> Array:
        """Maps `[N, H, W, C]` to `[N, *size, features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = TransposedConv(self.features, self.factor, name="conv", **types)(x, size)
        if not (train or self.is_initializing() or self.has_variable("params", "norm")):
            return nn.relu(y)
        return BatchNorm(name="norm", **types)(y, train=train, activation=nn.relu)


class DecoderBlock(nn.Module):
    """1x1 convolution to a quarter of the channels, transposed convolution, 1x1 convolution."""

    features: int
    factor: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Size, *, train: bool) -> Array:
        """Maps `[N, H, W, C]` to `[N, *size, features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init, reduced = {"kernel_init": kaiming_fan_in}, max(1, x.shape[-1] // 4)
        x = ConvNorm(reduced, 1, name="reduce", **init, **types)(x, train=train)
        x = TransposedConvNorm(reduced, self.factor, name="upsample", **types)(x, size, train=train)
        return ConvNorm(self.features, 1, name="expand", **init, **types)(x, train=train)


class LinkNet(nn.Module):
    """From coarse to fine: a block that upsamples to the next feature's size, plus that feature.

    The last block upsamples to the images' size, where there is no feature to add. Any image size
    works: sizes follow the features.

    Attributes:
        factors: Whole factors between the sizes of features, coarse to fine, one per feature.
        channels: Channels of the last block; those of the others are the features'.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Chaurasia and Culurciello, LinkNet, 2017, https://arxiv.org/abs/1707.03718. The form of
        segmentation_models.pytorch: a feature more, transposed convolutions with kernels of 4x4
        instead of 3x3, and a block like the others at the end. Initialization: Kaiming over fan-in,
        transposed convolutions interpolate.

    >>> import jax
    >>> features = jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), _ = LinkNet((2, 2)).init_with_output(jax.random.key(0), features, (8, 12))
    >>> x.shape
    (1, 8, 12, 32)
    """

    factors: tuple[int, ...] = (2, 2, 2, 2, 2)
    channels: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, *size, channels]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        *skips, x = promote_dtype(*features, dtype=self.dtype)
        for i, factor in enumerate(self.factors):
            skip = skips.pop() if skips else None
            channels = self.channels if skip is None else skip.shape[-1]
            target = size if skip is None else (skip.shape[1], skip.shape[2])
            x = DecoderBlock(channels, factor, name=f"block{i}", **types)(x, target, train=train)
            x = x if skip is None else x + skip
        return (x,)


def linknet(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 32,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """LinkNet on any encoder, in the form of segmentation_models.pytorch.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder.
        channels: Channels of the decoder's last map.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    References:
        Chaurasia and Culurciello, LinkNet: Exploiting Encoder Representations for Efficient
        Semantic Segmentation, 2017, https://arxiv.org/abs/1707.03718

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = linknet(num_classes=21, encoder=encoders.resnet18())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    11664437
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    factors = tuple(coarse // fine for fine, coarse in pairwise((1, *encoder.strides)))[::-1]
    return SegmentationModel(
        encoder,
        LinkNet(factors, channels, **types),
        Head(check_num_classes(num_classes), kernel_size=1, **types),
        image_head=make_image_head(image_labels, types),
    )


MODELS = {"linknet": linknet}
