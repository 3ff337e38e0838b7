"""MobileNetV3, large and small, with symmetric or TensorFlow's padding."""

from functools import partial
from typing import Any, NamedTuple

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


class Blocks(NamedTuple):
    """The blocks of one stage.

    Attributes:
        expansions: Expansion of each block.
        stride: Stride of the first block.
        kernel_size: Height and width of the depthwise kernels.
        gated: Whether blocks have a gate (squeeze-and-excitation).
        relu: Whether blocks have ReLUs instead of the encoder's activation.
    """

    expansions: tuple[float, ...]
    stride: int
    kernel_size: int = 3
    gated: bool = False
    relu: bool = False


LARGE = (
    Blocks((1,), 1, relu=True),
    Blocks((4, 3), 2, relu=True),
    Blocks((3, 3, 3), 2, 5, gated=True, relu=True),
    Blocks((6, 2.5, 2.3, 2.3), 2),
    Blocks((6, 6), 1, gated=True),
    Blocks((6, 6, 6), 2, 5, gated=True),
)
"""The stages of table 1 in the paper."""
SMALL = (
    Blocks((1,), 2, gated=True, relu=True),
    Blocks((4.5, 3.67), 2, relu=True),
    Blocks((4, 6, 6), 2, 5, gated=True),
    Blocks((3, 3), 1, 5, gated=True),
    Blocks((6, 6, 6), 2, 5, gated=True),
)
"""The stages of table 2 in the paper."""


class MobileNetV3(nn.Module):
    """Inverted residual network as an encoder: five features with strides 2, 4, 8, 16 and 32.

    The features are the last maps of each stride, the stem's among them where the first stage strides;
    the coarsest is that of the last 1x1 convolution. With `output_stride` 16 or 8 the last stages dilate
    instead of striding, as in timm.

    Attributes:
        stages: The blocks of each stage.
        widths: Channels of the stem, of each stage and of the last convolution.
        activation: An elementwise function, after all convolutions but those of stages with ReLUs.
        padding: As in `Conv`; `"same"` in TensorFlow's networks.
        norm_epsilon: Added to variances; 1e-3 in TensorFlow's networks.
        in_channels: Channels of the images, any number.
        depth: Number of features to compute, 1 to 5. Deeper stages are not built.
        output_stride: 32, or 16 or 8 for larger deep features.
        drop_path_rate: Probability of dropping a block's branch, from zero at the first block of
            the network linearly up to almost this at the last.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        Howard et al., Searching for MobileNetV3, 2019, https://arxiv.org/abs/1905.02244.
        Initialization: Kaiming normal over fan-out (timm).

    >>> MobileNetV3(output_stride=16).strides, MobileNetV3().channels
    ((2, 4, 8, 16, 16), (16, 24, 40, 112, 960))
    """

    stages: tuple[Blocks, ...] = LARGE
    widths: tuple[int, ...] = (16, 16, 24, 40, 80, 112, 160, 960)
    activation: Activation = nn.hard_swish
    padding: Padding = None
    norm_epsilon: float = 1e-5
    in_channels: int = 3
    depth: int = 5
    output_stride: int = 32
    drop_path_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if len(self.widths) != len(self.stages) + 2 or min(self.widths) < 1:
            raise InputError(
                f"widths={self.widths}: a MobileNetV3 of {len(self.stages)} stages has the widths of its stem, of each "
                "stage and of its last convolution, each at least one"
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
        return tuple(self.widths[i] for i in self._ends[: self.depth])

    @property
    def built_stages(self) -> int:
        """Number of stages that the depth needs, the last convolution among them."""
        return self._ends[self.depth - 1]

    @property
    def _ends(self) -> tuple[int, ...]:
        """The features' positions: 0 for the stem, then the stages, then the last convolution."""
        strides = [stage.stride for stage in self.stages]
        return (*(i for i, stride in enumerate(strides) if stride > 1), len(strides) + 1)

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, in_channels]` to features `[N, ceil(H / s), ceil(W / s), C_s]`."""
        check_images(images, self.in_channels)
        common: dict[str, Any] = {
            "padding": self.padding,
            "norm": partial(BatchNorm, epsilon=self.norm_epsilon),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        conv = partial(ConvNorm, activation=self.activation, **common)
        maps = [conv(self.widths[0], stride=2, name="stem")(images, train=train)]
        built = self.stages[: self.built_stages]
        geometries = dilated((2, *(stage.stride for stage in built)), self.output_stride)
        index, count = 0, sum(len(stage.expansions) for stage in self.stages)
        for number, (stage, geometry) in enumerate(zip(built, geometries, strict=True)):
            x = maps[-1]
            for i, expansion in enumerate(stage.expansions):
                expanded = (
                    round_channels(x.shape[-1] * expansion) if expansion != 1 else x.shape[-1]
                )
                x = InvertedResidual(
                    self.widths[1 + number],
                    expansion,
                    stage.kernel_size,
                    stride=geometry.stride if i == 0 else 1,
                    dilation=geometry.first_dilation if i == 0 else geometry.dilation,
                    squeeze_excite=_gate(expanded) if stage.gated else None,
                    activation=nn.relu if stage.relu else self.activation,
                    drop_path_rate=self.drop_path_rate * index / count,
                    name=f"stage{number}_block{i}",
                    **common,
                )(x, train=train)
                index += 1
            maps.append(x)
        if self.depth == len(self._ends):
            maps.append(conv(self.widths[-1], 1, name="last")(maps[-1], train=train))
        return tuple(maps[i] for i in self._ends[: self.depth])


def _gate(channels: int) -> partial[SqueezeExcite]:
    """Returns the gate of a block, whose width is a quarter of the expanded channels."""
    return partial(SqueezeExcite, round_channels(channels / 4), gate=nn.hard_sigmoid)


def _scaled(
    stages: tuple[Blocks, ...], widths: tuple[int, ...], width: float, **fields: Any
) -> partial[MobileNetV3]:
    """Returns the builder with multiples of all widths; below 0.75 the stem keeps its own."""
    stem = widths[0] if width < 0.75 else round_channels(widths[0] * width)
    scaled = (stem, *(round_channels(w * width) for w in widths[1:]))
    return partial(MobileNetV3, stages, scaled, **fields)


def _minimal(stages: tuple[Blocks, ...], widths: tuple[int, ...], **fields: Any) -> Any:
    """Returns the builder without gates, hard swishes and kernels of 5x5."""
    plain = tuple(stage._replace(kernel_size=3, gated=False) for stage in stages)
    return _scaled(plain, widths, 1.0, activation=nn.relu, **fields)


LARGE_WIDTHS = MobileNetV3.widths
SMALL_WIDTHS = (16, 16, 24, 40, 48, 96, 576)
TENSORFLOW = {"padding": "same", "norm_epsilon": 1e-3}
"""The fields with which weights were trained in TensorFlow; the names begin with `tf_`, as timm's."""

ENCODERS = {
    "mobilenetv3_small_100": _scaled(SMALL, SMALL_WIDTHS, 1.0),
    "mobilenetv3_small_075": _scaled(SMALL, SMALL_WIDTHS, 0.75),
    "mobilenetv3_small_050": _scaled(SMALL, SMALL_WIDTHS, 0.5),
    "mobilenetv3_large_100": _scaled(LARGE, LARGE_WIDTHS, 1.0),
    "mobilenetv3_large_075": _scaled(LARGE, LARGE_WIDTHS, 0.75),
    "tf_mobilenetv3_small_100": _scaled(SMALL, SMALL_WIDTHS, 1.0, **TENSORFLOW),
    "tf_mobilenetv3_small_075": _scaled(SMALL, SMALL_WIDTHS, 0.75, **TENSORFLOW),
    "tf_mobilenetv3_small_minimal_100": _minimal(SMALL, SMALL_WIDTHS, **TENSORFLOW),
    "tf_mobilenetv3_large_100": _scaled(LARGE, LARGE_WIDTHS, 1.0, **TENSORFLOW),
    "tf_mobilenetv3_large_075": _scaled(LARGE, LARGE_WIDTHS, 0.75, **TENSORFLOW),
    "tf_mobilenetv3_large_minimal_100": _minimal(LARGE, LARGE_WIDTHS, **TENSORFLOW),
}
