"""MAnet, the multi-scale attention net, on any encoder, in the form of segmentation_models.pytorch."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.models.unet import CHANNELS, DoubleConv, channels_of_steps
from jaxseg.nn import Conv, ConvNorm, Head, SqueezeExcite, nearest, upsample_merge
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size, Upsample


class PositionAttention(nn.Module):
    """Adds to each position a mean over all positions, weighted by an attention, then convolves.

    The softmax is over all pairs of positions at once, and positions and channels of the mean are
    exchanged by reading it in another order, as in segmentation_models.pytorch. The paper has neither.

    Attributes:
        attention_channels: Channels of queries and keys.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters.
    """

    attention_channels: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, C]` to the same shape; memory grows with the square of `H * W`."""
        n, height, width, channels = x.shape
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, kernel_init=kaiming_fan_in, **types)
        pointwise = partial(conv, self.attention_channels, 1)
        positions = n, height * width, -1
        keys = pointwise(name="top")(x).reshape(positions)
        queries = pointwise(name="center")(x).reshape(positions)
        values = conv(channels, 3, name="bottom")(x).reshape(positions)
        pairs = jnp.einsum("nqc,nkc->nqk", queries, keys)
        weights = jax.nn.softmax(pairs.reshape(n, -1)).reshape(pairs.shape)
        mean = jnp.einsum("nqk,nkc->nqc", weights, values)
        mean = mean.reshape(n, channels, height, width).transpose(0, 2, 3, 1)
        return conv(channels, 3, name="out")(x + mean)


class FusionAttention(nn.Module):
    """A step of U-Net whose coarse map gets the skip's channels first, weighted by gates of both.

    Attributes:
        features: Channels of the result.
        reduction: Divides the skip's channels inside of the gates.
        upsample: `upsample(x, size)`.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.
    """

    features: int
    reduction: int
    upsample: Upsample
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, skip: Array, *, train: bool) -> Array:
        """Maps `[N, h, w, C]` and `[N, H, W, D]` to `[N, H, W, features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(ConvNorm, kernel_init=kaiming_fan_in, **types)
        channels = skip.shape[-1]
        x = conv(x.shape[-1], name="smooth")(x, train=train)
        x = conv(channels, 1, name="project")(x, train=train)
        x = self.upsample(x, (skip.shape[1], skip.shape[2]))
        gate = partial(
            SqueezeExcite, max(1, channels // self.reduction), kernel_init=kaiming_fan_in, **types
        )
        x = gate(name="coarse_gate")(x) + gate(name="skip_gate")(x, skip)
        merged = jnp.concatenate([x, skip], axis=-1)
        return DoubleConv(self.features, name="convs", **types)(merged, train=train)


class MAnet(nn.Module):
    """Attention between positions of the coarsest feature, then steps with attention to channels.

    The last step upsamples to the images' size, where there is no feature to merge. Any image size
    works: sizes follow the features.

    Attributes:
        channels: Channels of each step, coarse to fine, one step per feature.
        attention_channels: Channels of the position attention.
        reduction: Divides the skips' channels inside of gates.
        upsample: `upsample(x, size)`; one of `jaxseg.nn.UPSAMPLINGS`, learned ones included.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Fan et al., MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation, 2020,
        https://ieeexplore.ieee.org/document/9201310. The form of segmentation_models.pytorch.
        Initialization: Kaiming over fan-in.

    >>> import jax
    >>> features = jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> (x,), _ = MAnet((16, 8)).init_with_output(jax.random.key(0), features, (8, 12))
    >>> x.shape
    (1, 8, 12, 8)
    """

    channels: tuple[int, ...] = CHANNELS
    attention_channels: int = 64
    reduction: int = 16
    upsample: Upsample = nearest
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, *size, channels[-1]]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        *skips, x = promote_dtype(*features, dtype=self.dtype)
        x = PositionAttention(self.attention_channels, name="attention", **types)(x)
        for i, skip in enumerate(reversed(skips)):
            fusion = FusionAttention(
                self.channels[i], self.reduction, self.upsample, name=f"block{i}", **types
            )
            x = fusion(x, skip, train=train)
        x = upsample_merge(x, None, size, upsample=self.upsample)
        last = DoubleConv(self.channels[-1], name=f"block{len(skips)}", **types)
        return (last(x, train=train),)


def manet(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: tuple[int, ...] | None = None,
    attention_channels: int = 64,
    reduction: int = 16,
    upsample: Upsample = nearest,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """MAnet on any encoder, in the form of segmentation_models.pytorch.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder.
        channels: Channels of each step, coarse to fine, one per feature; by default the end of
            `(256, 128, 64, 32, 16)`.
        attention_channels: Channels of queries and keys of the position attention.
        reduction: Divides the skips' channels inside of gates.
        upsample: `upsample(x, size)`: one of `jaxseg.nn.UPSAMPLINGS`, such as `jaxseg.nn.bilinear`; by
            name in `create` and recipes.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder does not have the features for `channels`.

    References:
        Fan et al., MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation, 2020,
        https://ieeexplore.ieee.org/document/9201310

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = manet(num_classes=21, encoder=encoders.resnet34())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    31786533
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    channels = channels_of_steps(channels, len(encoder.strides))
    return SegmentationModel(
        encoder,
        MAnet(channels, attention_channels, reduction, upsample, **types),
        Head(check_num_classes(num_classes), **types),
        image_head=make_image_head(image_labels, types),
    )


MODELS = {"manet": manet}
