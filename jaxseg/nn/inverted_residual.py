"""The inverted residual block of MobileNets and EfficientNets."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.nn.blocks import ConvNorm
from jaxseg.nn.conv import Padding
from jaxseg.nn.dropout import DropPath
from jaxseg.nn.norm import Activation, BatchNorm
from jaxseg.nn.residual import add_residual
from jaxseg.typing import Array

# A depthwise kernel's fan-out within its group equals its fan-in.
_depthwise_init = jax.jit(
    nn.initializers.variance_scaling(2.0, "fan_in", "normal"), static_argnums=(1, 2)
)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution and linear 1x1 projection, beside a shortcut if shapes agree.

    With `expansion=1` the block has no expanding convolution.

    Attributes:
        features: Channels of the result.
        expansion: Channels of the depthwise convolution per channel of the input.
        kernel_size: Height and width of the depthwise kernel.
        stride: Step of the depthwise convolution.
        dilation: Distance of its taps.
        padding: As in `Conv`.
        squeeze_excite: Makes the gate behind the depthwise convolution, such as
            `partial(SqueezeExcite, 4)`; None leaves it out.
        norm: As in `ConvNorm`.
        activation: An elementwise function, after all convolutions but the last.
        drop_path_rate: Probability of dropping the branch beside a shortcut in training.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters and running statistics.

    References:
        Sandler et al., MobileNetV2, 2018, https://arxiv.org/abs/1801.04381

    >>> block = InvertedResidual(8, stride=2)
    >>> def run(x):
    ...     return block.init_with_output(jax.random.key(0), x, train=False)[0]
    >>> jax.eval_shape(run, jnp.zeros((1, 5, 7, 4))).shape
    (1, 3, 4, 8)
    """

    features: int
    expansion: float = 6
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = None
    squeeze_excite: Callable[..., Any] | None = None
    norm: Callable[..., Any] | None = BatchNorm
    activation: Activation = nn.relu6
    drop_path_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        common: dict[str, Any] = {"norm": self.norm, "activation": self.activation, **types}
        y = x
        if self.expansion != 1:
            expanded = round_channels(x.shape[-1] * self.expansion)
            y = ConvNorm(expanded, 1, name="expand", **common)(y, train=train)
        y = ConvNorm(
            y.shape[-1],
            self.kernel_size,
            self.stride,
            self.dilation,
            self.padding,
            groups=y.shape[-1],
            kernel_init=_depthwise_init,
            name="depthwise",
            **common,
        )(y, train=train)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(name="squeeze_excite", **types)(y)
        y = ConvNorm(self.features, 1, norm=self.norm, activation=None, name="project", **types)(
            y, train=train
        )
        if self.stride != 1 or x.shape[-1] != self.features:
            return y
        y = DropPath(self.drop_path_rate)(y, train=train)
        return add_residual(y, x.astype(y.dtype), activation=None)


def round_channels(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of `divisor` that is at least 0.9 of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
