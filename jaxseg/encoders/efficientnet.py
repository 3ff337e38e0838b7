"""EfficientNet B0 to B7 and Lite 0 to 4, with PyTorch's padding or with TensorFlow's."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import check_fields, check_images
from jaxseg.encoders.stages import dilated
from jaxseg.errors import InputError
from jaxseg.nn import BatchNorm, ConvNorm, SqueezeExcite
from jaxseg.nn.conv import Padding
from jaxseg.nn.inverted_residual import InvertedResidual, round_channels
from jaxseg.nn.norm import Activation
from jaxseg.typing import Array

STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
KERNEL_SIZES = (3, 3, 5, 3, 5, 5, 3)
LAST_STAGES = (0, 1, 2, 4, 6)
"""The stages whose maps are the features."""


class EfficientNet(nn.Module):
    """Inverted residual blocks with channel gates as an encoder: five features with strides 2 to 32.

    The features are the last maps of each stride; the head's 1x1 convolution is not built. With
    `output_stride` 16 or 8 the last stages dilate instead of striding, as in timm.

    Attributes:
        blocks: Number of blocks in each of the seven stages.
        widths: Channels of the stem and of each stage.
        activation: An elementwise function; EfficientNet-Lite has a ReLU6.
        gated: Whether blocks have a squeeze-and-excitation; EfficientNet-Lite has none.
        padding: None for symmetric padding, or `"same"` for that of TensorFlow, which the published
            weights of Google were trained with.
        norm_epsilon: Added to variances; 1e-3 in TensorFlow's networks.
        stem_feature: Whether the finest feature is the stem's map instead of the first stage's, as
            in segmentation_models.pytorch, whose B0 departs from it: its fourth feature ends inside of a stage.
        in_channels: Channels of the images, any number.
        depth: Number of features to compute, 1 to 5. Deeper stages are not built.
        output_stride: 32, or 16 or 8 for larger deep features.
        drop_path_rate: Probability of dropping a block's branch, from zero at the first block of
            the network linearly up to almost this at the last.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019,
        https://arxiv.org/abs/1905.11946. Lite: https://github.com/tensorflow/tpu, 2020.
        Initialization: Kaiming normal over fan-out (timm).

    >>> EfficientNet(output_stride=16).strides, EfficientNet().channels
    ((2, 4, 8, 16, 16), (16, 24, 40, 112, 320))
    """

    blocks: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    widths: tuple[int, ...] = (32, 16, 24, 40, 80, 112, 192, 320)
    activation: Activation = nn.silu
    gated: bool = True
    padding: Padding = None
    norm_epsilon: float = 1e-5
    stem_feature: bool = False
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
                    f"{name}={numbers}: an EfficientNet has the blocks of seven stages and the "
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
        stem, *stages = self.widths
        features = [stages[stage] for stage in LAST_STAGES]
        if self.stem_feature:
            features[0] = stem
        return tuple(features[: self.depth])

    @property
    def built_stages(self) -> int:
        """Number of stages that the depth needs."""
        return 0 if self.stem_feature and self.depth == 1 else LAST_STAGES[self.depth - 1] + 1

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, in_channels]` to features `[N, ceil(H / s), ceil(W / s), C_s]`."""
        check_images(images, self.in_channels)
        stem_width, *widths = self.widths
        common: dict[str, Any] = {
            "padding": self.padding,
            "norm": partial(BatchNorm, epsilon=self.norm_epsilon),
            "activation": self.activation,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        x = ConvNorm(stem_width, stride=2, name="stem", **common)(images, train=train)
        features, index = [x] if self.stem_feature else [], 0
        geometries = dilated((2, *STRIDES[: self.built_stages]), self.output_stride)
        for stage, geometry in enumerate(geometries):
            for i in range(self.blocks[stage]):
                x = InvertedResidual(
                    widths[stage],
                    EXPANSIONS[stage],
                    KERNEL_SIZES[stage],
                    stride=geometry.stride if i == 0 else 1,
                    dilation=geometry.first_dilation if i == 0 else geometry.dilation,
                    squeeze_excite=self._gate(x.shape[-1]),
                    drop_path_rate=self.drop_path_rate * index / sum(self.blocks),
                    name=f"stage{stage}_block{i}",
                    **common,
                )(x, train=train)
                index += 1
            if stage in LAST_STAGES[self.stem_feature :]:
                features.append(x)
        return tuple(features)

    def _gate(self, channels: int) -> partial[SqueezeExcite] | None:
        """The gate of a block, whose width is a quarter of the block's input."""
        if not self.gated:
            return None
        return partial(SqueezeExcite, max(1, channels // 4), activation=self.activation)


def _scaled(width: float, depth: float, **fields: Any) -> partial[EfficientNet]:
    """Returns the builder with multiples of all widths and depths."""
    blocks = tuple(math.ceil(count * depth) for count in EfficientNet.blocks)
    widths = tuple(round_channels(w * width) for w in EfficientNet.widths)
    return partial(EfficientNet, blocks, widths, **fields)


def _scaled_lite(width: float, depth: float, **fields: Any) -> partial[EfficientNet]:
    """Returns the builder of a Lite variant: its stem and the depths of its outer stages stay."""
    blocks = EfficientNet.blocks
    inner = tuple(math.ceil(count * depth) for count in blocks[1:-1])
    stem, *stages = EfficientNet.widths
    widths = (stem, *(round_channels(w * width) for w in stages))
    lite = {"activation": nn.relu6, "gated": False}
    return partial(EfficientNet, (blocks[0], *inner, blocks[-1]), widths, **lite, **fields)


SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
"""Multiples of width and depth."""
LITE_SCALES = {
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
"""Multiples of width and depth of the Lite variants."""
TENSORFLOW = {"padding": "same", "norm_epsilon": 1e-3}
"""The fields with which weights were trained in TensorFlow; the names begin with `tf_`, as timm's."""

ENCODERS = {
    f"{prefix}efficientnet_{size}": build(*scales, **fields)
    for prefix, fields in {"": {}, "tf_": TENSORFLOW}.items()
    for build, table in ((_scaled, SCALES), (_scaled_lite, LITE_SCALES))
    for size, scales in table.items()
}
