"""Convolution, batch normalisation, ReLU: the block that most of the field is built from."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.nn.convolution import convolution
from jaxseg.nn.norm import BatchNorm
from jaxseg.typing import Array, Convolve

# Under `jit`, for Flax asks each layer's initialiser for its shapes whenever the layer is applied: one trace a shape.
kaiming_fan_out = jax.jit(
    nn.initializers.variance_scaling(2.0, "fan_out", "normal"), static_argnums=(1, 2)
)
"""Keeps the gradients' variance through ReLUs; encoders start so, as in torchvision."""
kaiming_fan_in = jax.jit(
    nn.initializers.variance_scaling(2.0, "fan_in", "uniform"), static_argnums=(1, 2)
)
"""Keeps the activations' variance through ReLUs; decoders start so, as in smp."""


class ConvNorm(nn.Module):
    """Convolution, by default without bias, batch normalisation and, unless switched off, a ReLU.

    With variables that `jaxseg.inference.fold_batch_norm` made there is no normalisation, and a bias.

    Padding is symmetric, `dilation * (kernel_size // 2)` on every side as in PyTorch: XLA's "SAME"
    pads one side more where the stride is 2.

    Attributes:
        features: Channels of the result.
        kernel_size: Height and width of the kernel.
        stride: Step of the convolution.
        dilation: Distance of the kernel's taps.
        relu: Whether a ReLU follows.
        use_bias: Whether the convolution adds a bias, which the normalisation makes idle in training;
            VGG's weights have one.
        kernel_init: Kaiming's normal over fan-out by default.
        dtype: Type to compute in; that of inputs and parameters by default.
        param_dtype: Type of parameters and running statistics.

    >>> import jax
    >>> block = ConvNorm(8, stride=2)
    >>> def run(x):
    ...     return block.init_with_output(jax.random.key(0), x, train=False)[0]
    >>> jax.eval_shape(run, jnp.zeros((1, 5, 7, 3))).shape
    (1, 3, 4, 8)
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    relu: bool = True
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool, convolve: Convolve = convolution) -> Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features]`, convolved by `convolve`."""
        folded = not (train or self.is_initializing() or self.has_variable("params", "norm"))
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=self.stride,
            padding=self.dilation * (self.kernel_size // 2),
            kernel_dilation=self.dilation,
            use_bias=self.use_bias or folded,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=convolve,
            name="conv",
        )(x)
        if folded:
            return nn.relu(x) if self.relu else x
        norm = BatchNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="norm")
        return norm(x, train=train, relu=self.relu)


class ConvReLU(nn.Module):
    """Convolution with bias and a ReLU, padded as in `ConvNorm`.

    Attributes:
        features: Channels of the result.
        kernel_size: Height and width of the kernel.
        dilation: Distance of the kernel's taps.
        kernel_init: Kaiming's normal over fan-out by default.
        dtype: Type to compute in; that of inputs and parameters by default.
        param_dtype: Type of parameters.

    >>> import jax
    >>> y, _ = ConvReLU(8).init_with_output(jax.random.key(0), jnp.ones((1, 5, 7, 3)))
    >>> y.shape, bool(y.min() >= 0)
    ((1, 5, 7, 8), True)
    """

    features: int
    kernel_size: int = 3
    dilation: int = 1
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, C]` to `[N, H, W, features]`."""
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            padding=self.dilation * (self.kernel_size // 2),
            kernel_dilation=self.dilation,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=convolution,
            name="conv",
        )(x)
        return nn.relu(x)
