"""The feature pyramid network of the paper on any encoder."""

from typing import Any

import flax.linen as nn

from jaxseg.decoders import MultiscaleFPN
from jaxseg.decoders.multiscale_fpn import SCALES
from jaxseg.encoders.contract import layout, types_of
from jaxseg.models.checks import at_least_one, image_head
from jaxseg.models.model import SegmentationModel
from jaxseg.nn import bilinear
from jaxseg.typing import Upsample


def multiscale_fpn(
    *,
    num_classes: int,
    encoder: nn.Module,
    channels: int = 256,
    supervise_scales: bool = False,
    upsample: Upsample = bilinear,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """The feature pyramid network as in its paper: every scale predicts, the predictions are merged.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its four coarsest features are used, or as many as there are.
        channels: Channels of the pyramid.
        supervise_scales: Whether `aux_logits` holds each scale's own prediction, fine to coarse, so
            that a loss sees every one (`make_loss_fn` weighs each by `aux_weight`).
        upsample: `upsample(x, size)` of the predictions; one of `jaxseg.nn.UPSAMPLINGS`.
        image_labels: Labels of an image classification head; 0 for none.
        dtype: Type to compute in; the encoder's by default.
        param_dtype: Type of parameters; the encoder's by default.

    References:
        Lin et al., Feature Pyramid Networks for Object Detection, 2017,
        https://arxiv.org/abs/1612.03144. `fpn` is the semantic FPN of Kirillov et al., 2019.

    >>> import jax
    >>> from jaxseg import encoders
    >>> model = multiscale_fpn(num_classes=21, encoder=encoders.resnet18(), supervise_scales=True)
    >>> def run(images):
    ...     return model.init_with_output(jax.random.key(0), images)[0]
    >>> output = jax.eval_shape(run, jax.numpy.zeros((1, 33, 64, 3)))
    >>> output.logits.shape, len(output.aux_logits)
    ((1, 33, 64, 21), 4)
    """
    scales = min(SCALES, len(layout(encoder)[0]))
    types = types_of(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        MultiscaleFPN(at_least_one(num_classes), channels, upsample, **types),
        None,
        aux_heads=(None,) * scales if supervise_scales else (),
        image_head=image_head(image_labels, types),
    )
