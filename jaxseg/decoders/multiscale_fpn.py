"""The feature pyramid as in its paper: one predictor for all scales, whose predictions are merged."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.nn import ConvReLU, FeaturePyramid, Head, bilinear
from jaxseg.nn.images import wide
from jaxseg.typing import Array, Size, Upsample

SCALES = 4


class MultiscaleFPN(nn.Module):
    """A pyramid over the four coarsest features; every scale predicts, by the same head.

    The predictions, upsampled to the image, are averaged: the mean of logits is the logarithm of a
    (normalised) geometric mean of the scales' probabilities. The maps are logits already.

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
        """Maps `features` to logits `[N, *size, num_classes]`: merged, then each scale's, fine to coarse."""
        del train
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        pyramid = FeaturePyramid(self.channels, name="pyramid", **types)(features[-SCALES:])
        hidden = ConvReLU(self.channels, name="hidden", **types)
        head = Head(self.num_classes, kernel_size=1, name="head", **types)
        logits = [self.upsample(wide(head(hidden(x))), size) for x in pyramid]
        return (jnp.stack(logits).mean(0), *logits)
