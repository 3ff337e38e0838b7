"""The feature pyramid network on any encoder."""

from typing import Any

import flax.linen as nn

from jaxseg.decoders import FPN
from jaxseg.encoders.contract import layout, types_of
from jaxseg.models.checks import at_least_one, image_head
from jaxseg.models.model import SegmentationModel
from jaxseg.nn import Head, bilinear_aligned


def fpn(
    *,
    num_classes: int,
    encoder: nn.Module,
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
        encoder: Any encoder; its four coarsest features are used, or as many as there are.
        pyramid_channels: Channels of the pyramid.
        segmentation_channels: Channels of the levels that are summed, a multiple of 32.
        dropout: Rate of dropout of whole channels before the head, in training.
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
    layout(encoder)
    types = types_of(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        FPN(pyramid_channels, segmentation_channels, dropout, **types),
        Head(at_least_one(num_classes), kernel_size=1, **types),
        image_head=image_head(image_labels, types),
        upsample=bilinear_aligned,
    )
