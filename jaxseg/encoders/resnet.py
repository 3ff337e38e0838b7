"""ResNet-18, 34, 50, 101 and 152 as torchvision, timm and smp have them (v1.5: the 3x3 strides)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.encoders.protocol import check_fields, check_images
from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm, add_residual, max_pool
from jaxseg.typing import Array

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where shapes differ."""

    features: int
    stride: int = 1
    first_dilation: int = 1
    dilation: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        f = self.features
        y = ConvNorm(f, stride=self.stride, dilation=self.first_dilation, name="conv1", **types)(
            x, train=train
        )
        y = ConvNorm(f, dilation=self.dilation, activation=None, name="conv2", **types)(
            y, train=train
        )
        return add_residual(y, _shortcut(x, f, self.stride, train, types))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which is projected where shapes differ."""

    features: int
    stride: int = 1
    first_dilation: int = 1
    dilation: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), 4 * features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        f = self.features
        y = ConvNorm(f, kernel_size=1, name="conv1", **types)(x, train=train)
        y = ConvNorm(f, stride=self.stride, dilation=self.first_dilation, name="conv2", **types)(
            y, train=train
        )
        y = ConvNorm(4 * f, kernel_size=1, activation=None, name="conv3", **types)(y, train=train)
        return add_residual(y, _shortcut(x, 4 * f, self.stride, train, types))


def _shortcut(x: Array, features: int, stride: int, train: bool, types: dict[str, Any]) -> Array:
    if stride == 1 and x.shape[-1] == features:
        return x
    project = ConvNorm(
        features, kernel_size=1, stride=stride, activation=None, name="shortcut", **types
    )
    return project(x, train=train)


class ResNet(nn.Module):
    """Residual network as an encoder: five features with strides 2, 4, 8, 16 and 32.

    The first feature is the stem's (convolution 7x7/2, normalization, ReLU), before the max-pool;
    the others are the maps of the four stages. With `output_stride` 16 or 8 the last stages dilate
    instead of striding. As in timm and torchvision, the first 3x3 convolution of a dilated stage
    keeps the dilation of the stage before it; segmentation_models.pytorch dilates that one too:
    `dilate_first=True` is for weights that were trained there with a smaller output stride.

    Attributes:
        blocks: Number of residual blocks in each of the four stages.
        bottleneck: Whether a block is 1x1, 3x3, 1x1 with four times the channels, instead of two
            3x3.
        in_channels: Channels of the images, any number.
        depth: Number of features to compute, 1 to 5. Deeper stages are not built.
        output_stride: 32, or 16 or 8 for larger deep features.
        dilate_first: Whether the first convolution of a dilated stage dilates like its others.
        dtype: Type to compute in; that of images and parameters by default.
        param_dtype: Type of parameters and running statistics.

    References:
        He et al., Deep Residual Learning for Image Recognition, 2015,
        https://arxiv.org/abs/1512.03385. Initialization: Kaiming normal over fan-out, scales one
        (torchvision; timm sets the last scale of each block to zero).

    >>> resnet18(output_stride=16).strides, resnet50().channels
    ((2, 4, 8, 16, 16), (64, 256, 512, 1024, 2048))
    """

    blocks: tuple[int, ...]
    bottleneck: bool = False
    in_channels: int = 3
    depth: int = 5
    output_stride: int = 32
    dilate_first: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise InputError(
                f"blocks={self.blocks}: a ResNet has four stages of at least one block"
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
        expansion = 4 if self.bottleneck else 1
        return (64, *(expansion * width for width in WIDTHS))[: self.depth]

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, in_channels]` to features `[N, ceil(H / s), ceil(W / s), C_s]`."""
        check_images(images, self.in_channels)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = Bottleneck if self.bottleneck else BasicBlock
        x = ConvNorm(64, kernel_size=7, stride=2, name="stem", **types)(images, train=train)
        features = [x]
        x = max_pool(x, 3, 2, 1) if self.depth > 1 else x
        stride_so_far, dilation = 4, 1
        for stage in range(1, self.depth):
            stride = 1 if stage == 1 else 2
            first_dilation = dilation
            if stride_so_far * stride > self.output_stride:
                dilation, stride = dilation * stride, 1
                first_dilation = dilation if self.dilate_first else first_dilation
            stride_so_far *= stride
            for i in range(self.blocks[stage - 1]):
                x = block(
                    WIDTHS[stage - 1],
                    stride=stride if i == 0 else 1,
                    first_dilation=first_dilation if i == 0 else dilation,
                    dilation=dilation,
                    name=f"stage{stage}_block{i}",
                    **types,
                )(x, train=train)
            features.append(x)
        return tuple(features)


resnet18 = partial(ResNet, (2, 2, 2, 2), False)
"""ResNet-18, with the other fields of `ResNet`, such as `resnet18(output_stride=16)`."""
resnet34 = partial(ResNet, (3, 4, 6, 3), False)
"""ResNet-34, with the fields of `ResNet`."""
resnet50 = partial(ResNet, (3, 4, 6, 3), True)
"""ResNet-50, with the fields of `ResNet`."""
resnet101 = partial(ResNet, (3, 4, 23, 3), True)
"""ResNet-101, with the fields of `ResNet`."""
resnet152 = partial(ResNet, (3, 8, 36, 3), True)
"""ResNet-152, with the fields of `ResNet`."""

ENCODERS = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
}
