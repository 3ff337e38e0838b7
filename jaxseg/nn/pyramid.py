"""The feature pyramid network: one map per scale, each of which sees the coarser ones."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.nn.conv import Conv
from jaxseg.nn.resize import nearest
from jaxseg.typing import Array

_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class FeaturePyramid(nn.Module):
    """Upsamples from coarse to fine by nearest interpolation, adds each feature and convolves the sum.

    Each feature goes through a 1x1 convolution (lateral). It is added to the upsampled coarser sum, and a 3x3 convolution
    of the sum is the pyramid's map. There is no nonlinearity.

    Attributes:
        channels: Number of channels of every map.
        dtype: Type to compute in; by default that of features and parameters.
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
        """Maps features `[N, h, w, _]`, fine to coarse, to `[N, h, w, channels]` in the same order."""
        conv = partial(
            Conv,
            self.channels,
            kernel_init=_INIT,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        x, maps = None, []
        for i, feature in reversed(list(enumerate(features))):
            lateral = conv(kernel_size=1, name=f"lateral{i}")(feature)
            size = (feature.shape[1], feature.shape[2])
            x = lateral if x is None else lateral + nearest(x, size)
            maps.append(conv(kernel_size=3, name=f"output{i}")(x))
        return tuple(reversed(maps))
