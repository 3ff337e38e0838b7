"""Convolution with PyTorch's padding, in the form that is fastest on the platform at hand."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxseg.errors import InputError
from jaxseg.nn.cpu import conv as conv_on_cpu
from jaxseg.nn.cpu import upsampled_conv
from jaxseg.nn.cpu.conv_window import Window
from jaxseg.nn.cpu.platform import by_platform
from jaxseg.nn.cpu.upsampled_conv import Upsampled
from jaxseg.typing import Array, Size

Padding = int | Size | Literal["same"] | None
"""Zeros around a map: a number of rows and columns on every side, or as many as TensorFlow adds for "same"."""


class Conv(nn.Module):
    """Convolution of `[N, H, W, C]` maps, padded as `torch.nn.Conv2d` pads.

    Padding is symmetric, where XLA's "SAME" pads one side more at a stride of 2. In float32 and float64 a program for a
    CPU holds faster forms of the convolution and of its gradient; the results are the same up to the order of sums.

    Attributes:
        features: Channels of the result.
        kernel_size: Height and width of the kernel; one number stands for both.
        stride: Step of the window in pixels.
        dilation: Distance of the kernel's taps in pixels.
        padding: Zeros on every side, in rows and columns; by default `dilation * (kernel_size // 2)`, which keeps the
            size at a stride of 1 and an odd kernel. `"same"` is TensorFlow's: the result has `ceil(size / stride)` rows and
            columns, and an odd number of zeros has one more after the map than before it.
        groups: Number of groups of channels that are convolved separately; the number of channels for a depthwise
            convolution.
        use_bias: Whether a bias is added.
        kernel_init: Initializer of the kernel `[h, w, C / groups, features]`.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters.

    Raises:
        InputError: `groups` does not divide the channels of the input or of the result.

    >>> layer = Conv(8, kernel_size=3, stride=2)
    >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 5, 7, 4)))
    >>> y.shape, jax.tree.map(jnp.shape, variables["params"])
    ((1, 3, 4, 8), {'bias': (8,), 'kernel': (3, 3, 4, 8)})
    """

    features: int
    kernel_size: int | Size = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = None
    groups: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array | Upsampled) -> Array:
        """Maps `[N, H, W, C]` to `[N, (H + 2 * padding - dilation * (h - 1) - 1) // stride + 1, ..., features]`."""
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise InputError(
                f"groups={self.groups}: it has to divide the {channels} channels of the input and the "
                f"{self.features} features of the result"
            )
        shape = (*_pair(self.kernel_size), channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = (
            self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            if self.use_bias
            else None
        )
        if isinstance(x, Upsampled):
            *maps, kernel, bias = promote_dtype(*x, kernel, bias, dtype=self.dtype)
            x = Upsampled(*maps)
        else:
            x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(x, kernel, self._window(x.shape), self.groups)
        return y if bias is None else add_bias(y, bias)

    def _window(self, shape: tuple[int, ...]) -> Window:
        taps = _pair(self.kernel_size)
        if self.padding == "same":
            rows, columns = map(self._same, shape[1:3], taps)
        elif self.padding is None:
            rows, columns = map(self._symmetric, taps)
        else:
            rows, columns = ((zeros, zeros) for zeros in _pair(self.padding))
        return Window((self.stride, self.stride), (rows, columns), (self.dilation, self.dilation))

    def _symmetric(self, taps: int) -> Size:
        return self.dilation * (taps // 2), self.dilation * (taps // 2)

    def _same(self, length: int, taps: int) -> Size:
        steps = -(-length // self.stride) - 1
        zeros = max(0, steps * self.stride + self.dilation * (taps - 1) + 1 - length)
        return zeros // 2, zeros - zeros // 2


def _pair(size: int | Size) -> Size:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def add_bias(x: Array, bias: Array) -> Array:
    """Returns `x + bias` in their type; the bias's gradient is summed over the pixels in float32 or wider.

    >>> add_bias(jnp.zeros((1, 1, 2, 2)), jnp.arange(2.0)).ravel().tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    wide = np.promote_types(np.float32, x.dtype)
    return (x.astype(wide) + bias.astype(wide).reshape(1, 1, 1, -1)).astype(x.dtype)


def convolve(x: Array | Upsampled, kernel: Array, window: Window, groups: int = 1) -> Array:
    """Convolves a map with a kernel.

    Where the result is smaller than the kernel (the last stage of an encoder on small images) XLA on a CPU takes 20 to
    100 times as long as for a map of 3 x 3 (jax 0.10: 2 x 2 pixels, 512 channels, batch 16: 210 instead of 4 ms forward,
    420 instead of 9 ms with gradients). There the taps are stacked and multiplied as one matrix, which costs next to
    nothing on any device.

    Args:
        x: `[N, H, W, C]`, floating point, or a map that is still to be upsampled.
        kernel: `[h, w, C / groups, features]` of the same type.
        window: Strides, padding and dilation.
        groups: Number of groups of channels.

    Returns:
        `[N, H', W', features]`.

    >>> x, kernel = jnp.ones((1, 2, 2, 4)), jnp.ones((3, 3, 4, 5))
    >>> y = convolve(x, kernel, Window(padding=((1, 1), (1, 1))))
    >>> y.shape, float(y[0, 0, 0, 0])
    ((1, 2, 2, 5), 16.0)
    """
    if isinstance(x, Upsampled):
        if groups == 1 and upsampled_conv.applies(x, kernel, window):
            return upsampled_conv.convolve(x, kernel)
        x = x.array()
    sizes = window.sizes(x.shape, kernel.shape)
    if groups == 1 and 1 <= min(sizes) < min(kernel.shape[:2]):
        return _stacked(x, kernel, window, sizes)
    if groups == 1 and conv_on_cpu.has_forms(x, kernel):
        return _convolution(x, kernel, window)
    return window.convolve(x, kernel, groups)


def _stacked(x: Array, kernel: Array, window: Window, sizes: list[int]) -> Array:
    """The product of the taps' views of the map, concatenated, and the kernel as one matrix."""
    x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))

    def seen_by(tap: int, axis: int) -> slice:
        first, stride = tap * window.dilation[axis], window.strides[axis]
        return slice(first, first + (sizes[axis] - 1) * stride + 1, stride)

    taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    stacked = jnp.concatenate([x[:, seen_by(i, 0), seen_by(j, 1)] for i, j in taps], -1)
    flat = kernel.reshape(-1, kernel.shape[-1])
    return lax.dot_general(stacked, flat, (((3,), (0,)), ((), ())))


# Under `jit`, so that it is traced and lowered once for all equal layers of a network.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _convolution(x: Array, kernel: Array, window: Window) -> Array:
    if not conv_on_cpu.uses_winograd(x, kernel, window):
        return window.convolve(x, kernel)
    form = partial(conv_on_cpu.forward, window=window)
    return by_platform(x, kernel, cpu=form, plain=window.convolve)


def _forward(x: Array, kernel: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    # Named, so that `save_convolutions` saves the result, since it does not see the convolution inside of the call.
    return checkpoint_name(_convolution(x, kernel, window), "convolution"), (x, kernel)


def _backward(window: Window, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    return _gradient(*saved, cotangent, window)


@partial(jax.jit, static_argnums=3)
def _gradient(x: Array, kernel: Array, cotangent: Array, window: Window) -> tuple[Array, Array]:
    form = partial(conv_on_cpu.gradients, window=window)
    return by_platform(x, kernel, cotangent, cpu=form, plain=window.gradients)


_convolution.defvjp(_forward, _backward)
