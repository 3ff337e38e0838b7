"""Blocks that networks are built from: convolution with normalization, separable convolution, channel gates and scales."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.nn.conv import Conv, Padding
from jaxseg.nn.cpu.upsampled_conv import Upsampled
from jaxseg.nn.norm import Activation, BatchNorm, per_channel
from jaxseg.typing import Array, Size

# Under `jit`, because Flax traces a layer's initializer for its shapes at every call: one trace per shape.
kaiming_fan_out = jax.jit(
    nn.initializers.variance_scaling(2.0, "fan_out", "normal"), static_argnums=(1, 2)
)
"""Keeps the variance of gradients through ReLUs; the initializer of torchvision's encoders."""
kaiming_fan_in = jax.jit(
    nn.initializers.variance_scaling(2.0, "fan_in", "uniform"), static_argnums=(1, 2)
)
"""Keeps the variance of activations through ReLUs; the initializer of smp's decoders."""


class ConvNorm(nn.Module):
    """Convolution, normalization and activation; by default batch normalization and a ReLU.

    The convolution has the parameters `conv/kernel` and `conv/bias`, the normalization is `norm`. With variables made by
    `jaxseg.inference.fold_batch_norm` there is no normalization, and the convolution has a bias.

    Attributes:
        features: Channels of the result.
        kernel_size: Height and width of the kernel; one number stands for both.
        stride: Step of the convolution.
        dilation: Distance of the kernel's taps.
        padding: As in `Conv`; by default `dilation * (kernel_size // 2)` on every side.
        groups: Number of groups of channels that are convolved separately.
        norm: Makes the normalization, such as `BatchNorm`, `LayerNorm` or `partial(GroupNorm, 16)`; None leaves it out.
        activation: An elementwise function, or None.
        use_bias: Whether the convolution adds a bias; by default where there is no normalization. In training
            normalization makes it idle, but VGG's weights have one.
        kernel_init: Initializer of the kernel; by default Kaiming's normal over fan-out.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters and running statistics.

    >>> block = ConvNorm(8, stride=2)
    >>> def run(x):
    ...     return block.init_with_output(jax.random.key(0), x, train=False)[0]
    >>> jax.eval_shape(run, jnp.zeros((1, 5, 7, 3))).shape
    (1, 3, 4, 8)
    """

    features: int
    kernel_size: int | Size = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = None
    groups: int = 1
    norm: Callable[..., Any] | None = BatchNorm
    activation: Activation | None = nn.relu
    use_bias: bool | None = None
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array | Upsampled, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        folded = self.norm is not None and not (
            train or self.is_initializing() or self.has_variable("params", "norm")
        )
        norm = None if folded else self.norm
        use_bias = norm is None if self.use_bias is None else self.use_bias or folded
        y = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            self.padding,
            self.groups,
            use_bias,
            self.kernel_init,
            name="conv",
            **types,
        )(x)
        if norm is None:
            return y if self.activation is None else self.activation(y)
        return norm(name="norm", **types)(y, train=train, activation=self.activation)


class SeparableConv(nn.Module):
    """Depthwise convolution, then a 1x1 convolution with normalization and activation.

    The parameters are `depthwise/kernel` and those of the `ConvNorm` named `pointwise`. Equal to timm's
    `SeparableConvNormAct`, and to smp's `SeparableConv2d` with a normalization behind it. Where a normalization follows
    the depthwise convolution too, two `ConvNorm`s are the block.

    Attributes:
        features: Channels of the result.
        kernel_size: Height and width of the depthwise kernel; one number stands for both.
        stride: Step of the depthwise convolution.
        dilation: Distance of its taps.
        norm: As in `ConvNorm`.
        activation: As in `ConvNorm`.
        kernel_init: Initializer of both kernels.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters and running statistics.

    References:
        Chollet, Xception, 2017, https://arxiv.org/abs/1610.02357

    >>> block = SeparableConv(8, stride=2)
    >>> variables = block.init(jax.random.key(0), jnp.ones((1, 5, 7, 3)), train=False)
    >>> jax.tree.map(jnp.shape, variables["params"]["depthwise"])
    {'kernel': (3, 3, 1, 3)}
    """

    features: int
    kernel_size: int | Size = 3
    stride: int = 1
    dilation: int = 1
    norm: Callable[..., Any] | None = BatchNorm
    activation: Activation | None = nn.relu
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features]`."""
        channels = x.shape[-1]
        types = {
            "kernel_init": self.kernel_init,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        x = Conv(
            channels,
            self.kernel_size,
            self.stride,
            self.dilation,
            groups=channels,
            use_bias=False,
            name="depthwise",
            **types,
        )(x)
        pointwise = ConvNorm(
            self.features,
            1,
            norm=self.norm,
            activation=self.activation,
            name="pointwise",
            **types,
        )
        return pointwise(x, train=train)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that is computed from the means of all channels.

    `x * gate(expand(activation(reduce(mean(x)))))` with two 1x1 convolutions with bias, `reduce` and `expand`.

    Attributes:
        reduced: Channels between the two convolutions.
        activation: An elementwise function; SiLU in EfficientNet, ReLU in MobileNetV3.
        gate: An elementwise function; the sigmoid in EfficientNet, `nn.hard_sigmoid` in MobileNetV3.
        kernel_init: Initializer of both kernels.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters.

    References:
        Hu, Shen and Sun, Squeeze-and-Excitation Networks, 2018, https://arxiv.org/abs/1709.01507

    >>> y, _ = SqueezeExcite(2).init_with_output(jax.random.key(0), jnp.zeros((1, 5, 7, 8)))
    >>> y.shape
    (1, 5, 7, 8)
    """

    reduced: int
    activation: Activation = nn.relu
    gate: Activation = nn.sigmoid
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, means_of: Array | None = None) -> Array:
        """Maps `[N, H, W, C]` to the same shape; the gate is computed from `means_of`, by default `x` itself."""
        types = {
            "kernel_init": self.kernel_init,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        y = (x if means_of is None else means_of).mean((1, 2), keepdims=True)
        y = self.activation(Conv(self.reduced, 1, name="reduce", **types)(y))
        return x * self.gate(Conv(x.shape[-1], 1, name="expand", **types)(y)).astype(x.dtype)


class LayerScale(nn.Module):
    """Multiplies each channel by a parameter, `scale`, that starts near zero.

    Attributes:
        init_value: Value that the parameter starts with; 1e-6 in ConvNeXt, 1e-5 in most transformers.
        param_dtype: Type of the parameter.

    References:
        Touvron et al., Going deeper with Image Transformers, 2021, https://arxiv.org/abs/2103.17239

    >>> y, _ = LayerScale(0.5).init_with_output(jax.random.key(0), jnp.ones((1, 1, 1, 2)))
    >>> y.ravel().tolist()
    [0.5, 0.5]
    """

    init_value: float = 1e-6
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., C]` to the same shape and type."""
        init = nn.initializers.constant(self.init_value)
        scale = self.param("scale", init, (x.shape[-1],), self.param_dtype)
        return x * per_channel(scale.astype(x.dtype), x.ndim)
