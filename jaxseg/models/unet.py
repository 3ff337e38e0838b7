"""U-Net on any encoder."""

from functools import partial
from typing import Any

import flax.linen as nn

from jaxseg import encoders
from jaxseg.decoders import UNet
from jaxseg.encoders.contract import layout, types_of
from jaxseg.errors import InputError
from jaxseg.models.checks import at_least_one, image_head
from jaxseg.models.model import SegmentationModel
from jaxseg.nn import Head, concatenate, nearest
from jaxseg.typing import Merge, Upsample


def unet(
    *,
    num_classes: int,
    encoder: nn.Module,
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
        channels: Channels of each step of the decoder, coarse to fine, one per feature; as many as
            the encoder needs of the end of `(256, 128, 64, 32, 16)` by default.
        upsample: `upsample(x, size)`: one of `jaxseg.nn.UPSAMPLINGS`, such as `jaxseg.nn.bilinear`
            or the learned `jaxseg.nn.transposed`; by name in `create` and recipes.
        merge: `merge(x, skip)`, skips by concatenation or by sum: one of `jaxseg.nn.MERGES`,
            `jaxseg.nn.concatenate` or `jaxseg.nn.add`; by name in `create` and recipes.
        center: Whether two convolutions come before the first step; only on a VGG by default.
        aux_heads: How many auxiliary heads (deep supervision), from the second finest step on.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    Raises:
        InputError: If `channels` or `aux_heads` do not fit the encoder.

    >>> import jax
    >>> model = unet(num_classes=12, encoder=encoders.resnet18(depth=3))
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> jax.eval_shape(run, jax.numpy.zeros((1, 9, 13, 3))).logits.shape
    (1, 9, 13, 12)
    """
    depth = len(layout(encoder)[0])
    types = types_of(encoder, dtype, param_dtype)
    default = (*(256,) * depth, 128, 64, 32, 16)[-depth:]
    channels = default if channels is None else tuple(channels)
    if len(channels) != depth:
        raise InputError(
            f"channels={channels}: the encoder has {depth} features, "
            "and U-Net needs one number for each"
        )
    if not 0 <= aux_heads < depth:
        raise InputError(
            f"aux_heads={aux_heads}: with {depth} features there can be 0 to {depth - 1}"
        )
    center = isinstance(encoder, encoders.VGG) if center is None else center
    head = partial(Head, at_least_one(num_classes), **types)
    return SegmentationModel(
        encoder,
        UNet(channels, upsample, merge, center, **types),
        head(),
        tuple(head() for _ in range(aux_heads)),
        image_head(image_labels, types),
    )
