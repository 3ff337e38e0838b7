"""MobileNetV2 with the widths and depths that timm has."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import check_fields, check_images
from jaxseg.encoders.stages import dilated
from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm
from jaxseg.nn.inverted_residual import InvertedResidual, round_channels
from jaxseg.typing import Array

STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
LAST_STAGES = (0, 1, 2, 4, 6)
"""The stages whose maps are the features."""


class MobileNetV2(nn.Module):
    """Inverted residual network as an encoder: five features with strides 2, 4, 8, 16 and 32.

    The features are the last maps of each stride; the head's 1x1 convolution is not built. With
    `output_stride` 16 or 8 the last stages dilate instead of striding, as in timm.

    Attributes:
        blocks: Number of blocks in each of the seven stages.
        widths: Channels of the stem and of each stage.
        in_channels: Channels of the images, any number.
        depth: Number of features to compute, 1 to 5. Deeper stages are not built.
        output_stride: 32, or 16 or 8 for larger deep features.
        drop_path_rate: Probability of dropping a block's branch, from zero at the first block of
            the network linearly up to almost this at the last.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018,
        https://arxiv.org/abs/1801.04381. Initialization: Kaiming normal over fan-out (timm).

    >>> mobilenetv2_100(output_stride=16).strides, mobilenetv2_100().channels
    ((2, 4, 8, 16, 16), (16, 24, 32, 96, 320))
    """

    blocks: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    widths: tuple[int, ...] = (32, 16, 24, 32, 64, 96, 160, 320)
    in_channels: int = 3
    depth: int = 5
    output_stride: int = 32
    drop_path_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        for name, numbers, length in (("blocks", self.blocks, 7), ("widths", self.widths, 8)):
            if len(numbers) != length or min(numbers) < 1:
                raise InputError(
                    f"{name}={numbers}: a MobileNetV2 has the blocks of seven stages and the "
                    "widths of its stem and of seven stages, each at least one"
                )
        check_fields(self, depths=5, output_strides=(8, 16, 32))
        super().__post_init__()

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each feature."""
        return tuple(min(2**i, self.output_stride) for i in range(1, self.depth + 1))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each feature."""
        return tuple(self.widths[1 + stage] for stage in LAST_STAGES[: self.depth])

    @property
    def built_stages(self) -> int:
        """Number of stages that the depth needs."""
        return LAST_STAGES[self.depth - 1] + 1

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, in_channels]` to features `[N, ceil(H / s), ceil(W / s), C_s]`."""
        check_images(images, self.in_channels)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        stem_width, *widths = self.widths
        x = ConvNorm(stem_width, stride=2, activation=nn.relu6, name="stem", **types)(
            images, train=train
        )
        features, index = [], 0
        geometries = dilated((2, *STRIDES[: self.built_stages]), self.output_stride)
        for stage, geometry in enumerate(geometries):
            for i in range(self.blocks[stage]):
                x = InvertedResidual(
                    widths[stage],
                    EXPANSIONS[stage],
                    stride=geometry.stride if i == 0 else 1,
                    dilation=geometry.first_dilation if i == 0 else geometry.dilation,
                    drop_path_rate=self.drop_path_rate * index / sum(self.blocks),
                    name=f"stage{stage}_block{i}",
                    **types,
                )(x, train=train)
                index += 1
            if stage in LAST_STAGES:
                features.append(x)
        return tuple(features)


def _scaled(width: float, depth: float | None = None) -> partial[MobileNetV2]:
    """Returns the builder with multiples of widths, and of the depths of all but the outer stages.

    The stem keeps its width if depths are scaled.
    """
    blocks = MobileNetV2.blocks
    inner = tuple(math.ceil(count * (depth or 1)) for count in blocks[1:-1])
    stem, *stages = MobileNetV2.widths
    return partial(
        MobileNetV2,
        (blocks[0], *inner, blocks[-1]),
        (
            round_channels(stem * width) if depth is None else stem,
            *(round_channels(w * width) for w in stages),
        ),
    )


mobilenetv2_100 = _scaled(1.0)
"""MobileNetV2, with the fields of `MobileNetV2`, such as `mobilenetv2_100(output_stride=16)`."""
mobilenetv2_035 = _scaled(0.35)
"""MobileNetV2 with 0.35 of the channels, with the fields of `MobileNetV2`."""
mobilenetv2_050 = _scaled(0.5)
"""MobileNetV2 with half of the channels, with the fields of `MobileNetV2`."""
mobilenetv2_075 = _scaled(0.75)
"""MobileNetV2 with 0.75 of the channels, with the fields of `MobileNetV2`."""
mobilenetv2_110d = _scaled(1.1, 1.2)
"""MobileNetV2 with 1.1 times the channels and 1.2 times the blocks."""
mobilenetv2_120d = _scaled(1.2, 1.4)
"""MobileNetV2 with 1.2 times the channels and 1.4 times the blocks."""
mobilenetv2_140 = _scaled(1.4)
"""MobileNetV2 with 1.4 times the channels, with the fields of `MobileNetV2`."""

ENCODERS = {
    "mobilenetv2_100": mobilenetv2_100,
    "mobilenetv2_035": mobilenetv2_035,
    "mobilenetv2_050": mobilenetv2_050,
    "mobilenetv2_075": mobilenetv2_075,
    "mobilenetv2_110d": mobilenetv2_110d,
    "mobilenetv2_120d": mobilenetv2_120d,
    "mobilenetv2_140": mobilenetv2_140,
}
