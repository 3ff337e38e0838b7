"""Semantic FPN on any encoder, in the form of segmentation_models.pytorch."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.errors import InputError
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import (
    Conv,
    ConvNorm,
    Dropout,
    GroupNorm,
    Head,
    bilinear,
    bilinear_aligned,
    nearest,
)
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.typing import Array, Size

GROUPS = 32


class FPN(nn.Module):
    """A top-down pyramid over the four coarsest features, whose levels are upsampled and summed.

    From coarse to fine, each level of the pyramid is the coarser level, upsampled, plus a 1x1
    convolution of a feature. Each level then goes through 3x3 convolutions, each followed by
    upsampling to twice the size, until it has the finest level's size.

    Attributes:
        pyramid_channels: Channels of the pyramid.
        segmentation_channels: Channels of the levels that are summed, a multiple of 32.
        dropout: Rate of dropout of channels of the sum, in training.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters.

    References:
        Kirillov et al., Panoptic Feature Pyramid Networks, 2019, https://arxiv.org/abs/1901.02446.
        The form of segmentation_models.pytorch: the pyramid has no output convolutions, and corners
        are aligned.
    """

    pyramid_channels: int = 256
    segmentation_channels: int = 128
    dropout: float = 0.2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.segmentation_channels < GROUPS or self.segmentation_channels % GROUPS:
            raise InputError(
                f"segmentation_channels={self.segmentation_channels}: "
                f"FPN's group normalization needs a multiple of {GROUPS}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to one map `[N, h, w, segmentation_channels]` of the fourth last's size."""
        del size
        fields = {
            "kernel_init": kaiming_fan_in,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        lateral = partial(Conv, self.pyramid_channels, 1, **fields)
        norm = partial(GroupNorm, GROUPS)
        conv = partial(ConvNorm, self.segmentation_channels, norm=norm, **fields)
        used = features[-4:][::-1]
        sizes = [(f.shape[1], f.shape[2]) for f in used]

        pyramid = [lateral(name="lateral0")(used[0])]
        for i, feature in enumerate(used[1:], start=1):
            pyramid.append(nearest(pyramid[-1], sizes[i]) + lateral(name=f"lateral{i}")(feature))

        levels = []
        for i, x in enumerate(pyramid):
            for j, target in enumerate(sizes[i + 1 :] or [sizes[i]]):
                x = conv(name=f"level{i}_conv{j}")(x, train=train)
                x = bilinear(x, target, align_corners=True)
            levels.append(x)
        total = sum(levels[1:], levels[0])
        return (Dropout(self.dropout, broadcast_dims=(1, 2))(total, train=train),)


def fpn(
    *,
    num_classes: int,
    encoder: Encoder,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    dropout: float = 0.2,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """Semantic FPN on any encoder, in the form of segmentation_models.pytorch (aligned corners).

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its four coarsest features are used, or all if it has fewer.
        pyramid_channels: Channels of the pyramid.
        segmentation_channels: Channels of the levels that are summed, a multiple of 32.
        dropout: Rate of dropout of channels before the head, in training.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If `segmentation_channels` is not a multiple of 32.

    References:
        Lin et al., Feature Pyramid Networks for Object Detection, 2017,
        https://arxiv.org/abs/1612.03144; Kirillov et al., Panoptic Feature Pyramid Networks, 2019,
        https://arxiv.org/abs/1901.02446, whose semantic branch this is.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = fpn(num_classes=21, encoder=encoders.resnet18())
    >>> images = jax.ShapeDtypeStruct((1, 33, 64, 3), jax.numpy.float32)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    13049813
    """
    check_encoder(encoder)
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        FPN(pyramid_channels, segmentation_channels, dropout, **types),
        Head(check_num_classes(num_classes), kernel_size=1, **types),
        image_head=make_image_head(image_labels, types),
        upsample=bilinear_aligned,
    )


MODELS = {"fpn": fpn}
