"""The feature pyramid network as in its paper, on any encoder: every scale predicts."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import Encoder, check_encoder, inherit_dtypes
from jaxseg.models.segmentation_model import (
    SegmentationModel,
    check_num_classes,
    make_image_head,
)
from jaxseg.nn import ConvNorm, FeaturePyramid, Head, bilinear
from jaxseg.nn.inputs import wide
from jaxseg.typing import Array, Size, Upsample

SCALES = 4


class MultiscaleFPN(nn.Module):
    """A pyramid over the four coarsest features; one head predicts at every scale.

    The predictions are upsampled to the images' size and averaged. The mean of logits is the
    logarithm of the geometric mean of the scales' probabilities, up to normalization. The maps are
    logits.

    Attributes:
        num_classes: Channels of the logits.
        channels: Channels of the pyramid and of the head's hidden map.
        upsample: `upsample(x, size)` of the predictions.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters.

    References:
        Lin et al., Feature Pyramid Networks for Object Detection, 2017,
        https://arxiv.org/abs/1612.03144: the pyramid P2 to P5 of section 3, and the head of section
        4.1, a 3x3 convolution with ReLU and a 1x1 convolution shared over scales, which predicts
        classes of pixels instead of boxes.

    >>> import jax
    >>> features = jnp.ones((1, 8, 8, 4)), jnp.ones((1, 4, 4, 8))
    >>> decoder = MultiscaleFPN(3, channels=16)
    >>> maps, _ = decoder.init_with_output(jax.random.key(0), features, (16, 15))
    >>> [x.shape for x in maps], bool(jnp.allclose(maps[0], (maps[1] + maps[2]) / 2, atol=1e-6))
    ([(1, 16, 15, 3), (1, 16, 15, 3), (1, 16, 15, 3)], True)
    """

    num_classes: int
    channels: int = 256
    upsample: Upsample = bilinear
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps features to logits `[N, *size, num_classes]`: the mean, then each scale's, fine to coarse."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        pyramid = FeaturePyramid(self.channels, name="pyramid", **types)(features[-SCALES:])
        hidden = ConvNorm(self.channels, norm=None, name="hidden", **types)
        head = Head(self.num_classes, kernel_size=1, name="head", **types)
        logits = [self.upsample(wide(head(hidden(x, train=train))), size) for x in pyramid]
        return (jnp.stack(logits).mean(0), *logits)


def multiscale_fpn(
    *,
    num_classes: int,
    encoder: Encoder,
    channels: int = 256,
    supervise_scales: bool = False,
    upsample: Upsample = bilinear,
    image_labels: int = 0,
    dtype: Any = None,
    param_dtype: Any = None,
) -> SegmentationModel:
    """The feature pyramid network as in its paper: every scale predicts, and their mean counts.

    Args:
        num_classes: Channels of the logits; 1 stands for one sigmoid.
        encoder: Any encoder; its four coarsest features are used, or all if it has fewer.
        channels: Channels of the pyramid.
        supervise_scales: Whether `aux_logits` holds the prediction of each scale, fine to coarse, so
            that a loss sees every one (`make_loss_fn` weights each by `aux_weight`).
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
    check_encoder(encoder)
    scales = min(SCALES, len(encoder.strides))
    types = inherit_dtypes(encoder, dtype, param_dtype)
    return SegmentationModel(
        encoder,
        MultiscaleFPN(check_num_classes(num_classes), channels, upsample, **types),
        None,
        aux_heads=(None,) * scales if supervise_scales else (),
        image_head=make_image_head(image_labels, types),
    )


MODELS = {"multiscale_fpn": multiscale_fpn}
