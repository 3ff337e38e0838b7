"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s on any encoder."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.nn import TransposedConv
from jaxseg.nn.convolution import convolution
from jaxseg.typing import Array, Size


class FCN(nn.Module):
    """Scores of the features with strides 32, 16 and 8, summed from coarse to fine.

    Between two levels the scores are upsampled by a learned transposed convolution that starts as
    bilinear interpolation. The map is logits already; the last upsampling, which the paper keeps
    fixed, is the model's.

    Attributes:
        num_classes: Channels of the scores.
        stride: Stride of the finest feature that is used: 32 (FCN-32s), 16 (FCN-16s) or 8 (FCN-8s).
        strides: The encoder's strides.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038. Scores start at zero as there; the encoder's last feature
        stands for VGG-16's fc7, and all levels are trained at once. A VGG's features with strides 8
        and 16 come before the pools that the paper scores after: `jaxseg.networks.FCNVGG` is the
        paper's network.

    >>> FCN8s(num_classes=2).used, FCN32s(num_classes=2).used
    ((8, 16, 32), (32,))
    """

    num_classes: int
    stride: int = 8
    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.stride not in (8, 16, 32):
            raise InputError(
                f"stride={self.stride}: an FCN's finest feature has stride 8, 16 or 32"
            )
        used = self.used
        if tuple(self.strides[-len(used) :]) != used:
            raise InputError(
                f"FCN-{self.stride}s sums features of strides {', '.join(map(str, used))}, "
                f"but the encoder's are {', '.join(map(str, self.strides))}: "
                "give it its full depth and output_stride=32, or take another decoder"
            )
        super().__post_init__()

    @property
    def used(self) -> tuple[int, ...]:
        """Strides of the features that are used, fine to coarse."""
        return tuple(s for s in (8, 16, 32) if s >= self.stride)

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps `features` to logits `[N, h, w, num_classes]` at the finest stride that is used."""
        del size, train
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        score = partial(
            nn.Conv,
            self.num_classes,
            (1, 1),
            padding=0,
            kernel_init=nn.initializers.zeros,
            conv_general_dilated=convolution,
            **types,
        )
        levels = list(zip(features[-len(self.used) :], self.used, strict=True))
        feature, stride = levels.pop()
        x = score(name=f"score{stride}")(feature)
        for feature, stride in reversed(levels):
            up = TransposedConv(self.num_classes, 2, use_bias=False, name=f"up{stride}", **types)
            x = up(x, (feature.shape[1], feature.shape[2])) + score(name=f"score{stride}")(feature)
        return (x,)


FCN32s = partial(FCN, stride=32)
FCN16s = partial(FCN, stride=16)
FCN8s = partial(FCN, stride=8)
