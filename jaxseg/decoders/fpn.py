"""The feature pyramid network for semantic segmentation."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.nn import GroupNorm, bilinear, nearest
from jaxseg.nn.blocks import kaiming_fan_in
from jaxseg.nn.convolution import convolution
from jaxseg.typing import Array, Size

GROUPS = 32


class FPN(nn.Module):
    """A top-down pyramid over the four coarsest features, whose levels are upsampled and summed.

    Level by level, coarse to fine, the pyramid is upsampled and the next feature added through a
    1x1 convolution. Each level then goes through 3x3 convolutions, each followed by a doubling of
    the size, up to the finest level's size.

    Attributes:
        pyramid_channels: Channels of the pyramid.
        segmentation_channels: Channels of the levels that are summed, a multiple of 32.
        dropout: Rate of dropout of whole channels of the sum, in training.
        dtype: Type to compute in; that of features and parameters by default.
        param_dtype: Type of parameters.

    References:
        Kirillov et al., Panoptic Feature Pyramid Networks, 2019, https://arxiv.org/abs/1901.02446.
        The form of segmentation_models.pytorch: the pyramid has no output convolutions, and corners
        are aligned.
    """

    pyramid_channels: int = 256
    segmentation_channels: int = 128
    dropout: float = 0.2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.segmentation_channels < GROUPS or self.segmentation_channels % GROUPS:
            raise InputError(
                f"segmentation_channels={self.segmentation_channels}: "
                f"FPN's group normalisation needs a multiple of {GROUPS}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, features: tuple[Array, ...], size: Size, *, train: bool = False
    ) -> tuple[Array, ...]:
        """Maps `features` to one map `[N, h, w, segmentation_channels]`, as large as the fourth last."""
        del size
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        lateral = partial(
            nn.Conv,
            self.pyramid_channels,
            (1, 1),
            padding=0,
            kernel_init=kaiming_fan_in,
            conv_general_dilated=convolution,
            **types,
        )
        used = features[-4:][::-1]
        sizes = [(f.shape[1], f.shape[2]) for f in used]

        pyramid = [lateral(name="lateral0")(used[0])]
        for i, feature in enumerate(used[1:], start=1):
            pyramid.append(nearest(pyramid[-1], sizes[i]) + lateral(name=f"lateral{i}")(feature))

        total = None
        for i, x in enumerate(pyramid):
            for j, target in enumerate(sizes[i + 1 :] or [sizes[i]]):
                x = ConvGroupNorm(self.segmentation_channels, name=f"level{i}_conv{j}", **types)(x)
                x = bilinear(x, target, align_corners=True)
            total = x if total is None else total + x
        return (nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(total),)


class ConvGroupNorm(nn.Module):
    """3x3 convolution without bias, group normalisation and ReLU."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Conv(
            self.features,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=kaiming_fan_in,
            conv_general_dilated=convolution,
            name="conv",
            **types,
        )(x)
        return nn.relu(GroupNorm(GROUPS, name="norm", **types)(x))
