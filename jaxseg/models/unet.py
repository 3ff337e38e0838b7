"""U-Net on any encoder, in the form of segmentation_models.pytorch."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.encoders.vgg import VGG
from jaxseg.errors import InputError
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_aux_heads,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ConvNorm, Head, concatenate, nearest, upsample_merge
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Merge, Size, Upsample

CHANNELS = (256, 128, 64, 32, 16)


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with batch normalization and ReLU."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Array:
        """Maps `[N, H, W, C]`, or what `upsample_merge` returns, to `[N, H, W, features]`."""
        for name in ("conv1", "conv2"):
            x = ConvNorm(
                self.features,
                kernel_init=kaiming_fan_in,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )(x, train=train)
        return x


class UNet(nn.Module):
    """From coarse to fine: upsample to the next feature's size, merge with it, convolve twice.

    The last step upsamples to the images' size, where there is no feature to merge. Any image size
    works: sizes follow the features.

    Attributes:
        channels: Channels of each step, coarse to fine, one step per feature.
        upsample: `upsample(x, size)`; one of `jaxseg.nn.UPSAMPLINGS`, learned ones included.
        merge: `merge(x, skip)`: `jaxseg.nn.concatenate` or `jaxseg.nn.add`.
        center: Whether two more convolutions come first, on the coarsest feature.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Ronneberger et al., U-Net, 2015, https://arxiv.org/abs/1505.04597. The form of
        segmentation_models.pytorch: a pretrained encoder, padded convolutions with batch
        normalization, and fixed upsampling instead of learned.

    >>> import jax
    >>> features = jnp.ones((1, 4, 6, 8)), jnp.ones((1, 2, 3, 16))
    >>> maps, _ = UNet((16, 8)).init_with_output(jax.random.key(0), features, (8, 12))
    >>> [x.shape for x in maps]
    [(1, 8, 12, 8), (1, 4, 6, 16)]
    """

    channels: tuple[int, ...] = CHANNELS
    upsample: Upsample = nearest
    merge: Merge = concatenate
    center: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to the maps of all steps, fine to coarse; the first has the size `size`."""
        if len(features) != len(self.channels):
            raise InputError(
                f"the encoder has {len(features)} features, but UNet has "
                f"channels={tuple(self.channels)}: one number per feature is needed"
            )
        *skips, x = promote_dtype(*features, dtype=self.dtype)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.center:
            x = DoubleConv(x.shape[-1], name="center", **types)(x, train=train)
        maps = []
        for i, channels in enumerate(self.channels):
            skip = skips.pop() if skips else None
            target = size if skip is None else (skip.shape[1], skip.shape[2])
            x = upsample_merge(x, skip, target, upsample=self.upsample, merge=self.merge)
            x = DoubleConv(channels, name=f"block{i}", **types)(x, train=train)
            maps.append(x)
        return tuple(reversed(maps))


def channels_of_steps(channels: tuple[int, ...] | None, depth: int) -> tuple[int, ...]:
    """Returns the channels of each step of a decoder on `depth` features; the default where there are none.

    Raises:
        InputError: The number of channels is another.

    >>> channels_of_steps(None, 3)
    (64, 32, 16)
    """
    default = (*CHANNELS[:1] * depth, *CHANNELS[1:])[-depth:]
    channels = default if channels is None else tuple(channels)
    if len(channels) != depth:
        raise InputError(
            f"channels={channels}: the encoder has {depth} features, "
            "and a U-Net needs one number for each"
        )
    return channels


def unet(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: tuple[int, ...] | None = None,
    upsample: Upsample = nearest,
    merge: Merge = concatenate,
    center: bool | None = None,
    aux_heads: int = 0,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """U-Net on any encoder, in the form of segmentation_models.pytorch.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder.
        channels: Channels of each step of the decoder, coarse to fine, one per feature; by default
            the end of `(256, 128, 64, 32, 16)`.
        upsample: `upsample(x, size)`: one of `jaxseg.nn.UPSAMPLINGS`, such as `jaxseg.nn.bilinear`
            or the learned `jaxseg.nn.transposed`; by name in `create` and recipes.
        merge: `merge(x, skip)`, skips by concatenation or by sum: one of `jaxseg.nn.MERGES`,
            `jaxseg.nn.concatenate` or `jaxseg.nn.add`; by name in `create` and recipes.
        center: Whether two convolutions come before the first step; only on a VGG by default.
        aux_heads: Number of auxiliary heads (deep supervision), from the second finest step on.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If the encoder does not have the features for `channels` or `aux_heads`.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = unet(num_classes=12, encoder=encoders.resnet18(depth=3))
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> jax.eval_shape(run, jax.numpy.zeros((1, 9, 13, 3))).logits.shape
    (1, 9, 13, 12)
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    channels = channels_of_steps(channels, len(encoder.strides))
    center = isinstance(encoder, VGG) if center is None else center
    head = partial(Head, check_num_classes(num_classes), **types)
    return SegmentationModel(
        encoder,
        UNet(channels, upsample, merge, center, **types),
        head(),
        tuple(head() for _ in range(check_aux_heads(aux_heads, len(channels)))),
        make_image_head(image_labels, types),
    )


MODELS = {"unet": unet}
