"""PAN, the pyramid attention network, on any encoder, in the form of segmentation_models.pytorch."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ConvNorm, Head, bilinear_aligned, max_pool
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size


class FeaturePyramidAttention(nn.Module):
    """A map times an attention of three scales, plus its mean.

    The attention has one channel. Convolutions of 7x7, 5x5 and 3x3 pixels see the map at a half, a
    quarter and an eighth of its size; from coarse to fine they are upsampled and added.

    Attributes:
        channels: Channels of the result.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.
    """

    channels: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to `[N, H, W, channels]`."""
        fields = {"use_bias": True, "dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(ConvNorm, kernel_init=kaiming_fan_in, **fields)
        mean = conv(self.channels, 1, name="mean")(x.mean((1, 2), keepdims=True), train=train)
        middle = conv(self.channels, 1, name="middle")(x, train=train)

        half = conv(1, 7, name="down0")(_halve(x), train=train)
        quarter = conv(1, 5, name="down1")(_halve(half), train=train)
        eighth = conv(1, 3, name="down2")(_halve(quarter), train=train)
        eighth = conv(1, 3, name="up2")(eighth, train=train)
        quarter = conv(1, 5, name="up1")(quarter, train=train) + _upsample_to(eighth, quarter)
        half = conv(1, 7, name="up0")(half, train=train) + _upsample_to(quarter, half)
        return middle * _upsample_to(half, x) + mean


class GlobalAttentionUpsample(nn.Module):
    """A fine feature, weighted per channel by the coarse map's mean, plus the map upsampled.

    Attributes:
        channels: Channels of the coarse map and of the result.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.
    """

    channels: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, fine: Array, coarse: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` and `[N, h, w, channels]` to `[N, H, W, channels]`."""
        fields = {"use_bias": True, "dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(ConvNorm, self.channels, kernel_init=kaiming_fan_in, **fields)
        weight = conv(1, activation=nn.sigmoid, name="weight")(
            coarse.mean((1, 2), keepdims=True), train=train
        )
        return _upsample_to(coarse, fine) + weight * conv(name="conv")(fine, train=train)


class PAN(nn.Module):
    """Pyramid attention on the coarsest feature, then attention upsampling towards the finest.

    Attributes:
        levels: Number of features that are used, the coarsest ones.
        channels: Channels of all maps.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Li et al., Pyramid Attention Network for Semantic Segmentation, 2018,
        https://arxiv.org/abs/1805.10180. The form of segmentation_models.pytorch: the attention has one
        channel, an 1x1 convolution with a sigmoid makes weights of means, corners are aligned.
        Initialization: Kaiming over fan-in. A map of one pixel stays one where it would be halved.

    >>> import jax
    >>> features = jnp.ones((1, 8, 12, 4)), jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), _ = PAN(levels=2).init_with_output(jax.random.key(0), features, (16, 24))
    >>> x.shape
    (1, 4, 6, 32)
    """

    levels: int = 4
    channels: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, h, w, channels]` of the size of the finest that is used."""
        del size
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        *skips, coarsest = features[-self.levels :]
        x = FeaturePyramidAttention(self.channels, name="pyramid", **types)(coarsest, train=train)
        for level, skip in reversed(tuple(enumerate(skips, start=1))):
            upsample = GlobalAttentionUpsample(self.channels, name=f"upsample{level}", **types)
            x = upsample(skip, x, train=train)
        return (x,)


def _halve(x: Array) -> Array:
    for axis in (1, 2):
        if x.shape[axis] == 1:
            x = jnp.repeat(x, 2, axis)
    return max_pool(x, 2, 2)


def _upsample_to(x: Array, like: Array) -> Array:
    return bilinear_aligned(x, (like.shape[1], like.shape[2]))


def pan(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 32,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """PAN on any encoder, in the form of segmentation_models.pytorch (aligned corners).

    There the encoder dilates to an output stride of 16, such as `encoders.resnet34(output_stride=16)`.
    For weights from there a ResNet has `dilate_first=True`, too.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its features of stride 4 and more are used, at least one.
        channels: Channels of the decoder.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    References:
        Li et al., Pyramid Attention Network for Semantic Segmentation, 2018,
        https://arxiv.org/abs/1805.10180

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = pan(num_classes=21, encoder=encoders.resnet34(output_stride=16))
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    21481596
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    levels = max(1, sum(stride >= 4 for stride in encoder.strides))
    return SegmentationModel(
        encoder,
        PAN(levels, channels, **types),
        Head(check_num_classes(num_classes), **types),
        image_head=make_image_head(image_labels, types),
        upsample=bilinear_aligned,
    )


MODELS = {"pan": pan}
