"""The feature pyramid: one map per scale, each with the meaning of the coarsest."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.nn.convolution import convolution
from jaxseg.nn.resize import nearest
from jaxseg.typing import Array

_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class FeaturePyramid(nn.Module):
    """From coarse to fine: upsample by repeating pixels, add the feature, convolve.

    Each feature goes through a 1x1 convolution (lateral), the sum of it and the upsampled coarser
    sum is the next finer sum, and a 3x3 convolution of each sum is the pyramid's map. Nothing in it
    is nonlinear, and the coarsest map has no sum.

    Attributes:
        channels: Channels of every map.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters.

    References:
        Lin et al., Feature Pyramid Networks for Object Detection, 2017,
        https://arxiv.org/abs/1612.03144

    >>> import jax
    >>> features = jnp.ones((1, 5, 6, 8)), jnp.ones((1, 3, 3, 16))
    >>> maps, _ = FeaturePyramid(7).init_with_output(jax.random.key(0), features)
    >>> [x.shape for x in maps]
    [(1, 5, 6, 7), (1, 3, 3, 7)]
    """

    channels: int = 256
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: tuple[Array, ...]) -> tuple[Array, ...]:
        """Maps `[N, h, w, _]`, fine to coarse, to `[N, h, w, channels]` in the same order."""
        conv = partial(
            nn.Conv,
            self.channels,
            kernel_init=_INIT,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=convolution,
        )
        x, maps = None, []
        for i, feature in reversed(list(enumerate(features))):
            lateral = conv(kernel_size=(1, 1), padding=0, name=f"lateral{i}")(feature)
            size = (feature.shape[1], feature.shape[2])
            x = lateral if x is None else lateral + nearest(x, size)
            maps.append(conv(kernel_size=(3, 3), padding=1, name=f"output{i}")(x))
        return tuple(reversed(maps))
