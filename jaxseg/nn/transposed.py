"""Transposed convolution equal to PyTorch's, computed as a plain convolution and a rearrangement of its channels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax

from jaxseg.errors import InputError
from jaxseg.nn.conv import add_bias
from jaxseg.nn.crop_or_pad import crop_or_pad, smallest_factor
from jaxseg.typing import Array, Size


def transposed_convolution(
    x: Array, kernel: Array, stride: int, *, padding: int = 0, output_padding: int = 0
) -> Array:
    """Adds up, for each pixel of `x`, the kernel times its value, at positions `stride` pixels apart.

    Equal to `torch.nn.functional.conv_transpose2d` with the kernel `[k, k, C, F]` for its `[C, F, k, k]`. Pixel
    `stride * q + r` of the result is a weighted sum of the inputs `q`, `q - 1`, ..., each with a different slice of the
    kernel. So the phases `r` are channels of one convolution with `ceil(k / stride)` taps, which is a matrix product for
    one or two taps. On a CPU the gradient of XLA's transposed convolution takes many times as long.

    Args:
        x: `[N, H, W, C]`, floating point.
        kernel: `[k, k, C, F]` of the same type.
        stride: Pixels of the result per pixel of `x`.
        padding: Pixels that are cropped on every side.
        output_padding: Pixels that are added at the bottom and at the right.

    Returns:
        `[N, (H - 1) * stride - 2 * padding + k + output_padding, ..., F]`.

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038, section 3.3

    >>> x, kernel = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), jnp.ones((3, 3, 1, 1))
    >>> transposed_convolution(x, kernel, 2)[0, 0, :, 0].tolist()
    [1.0, 1.0, 3.0, 2.0, 2.0]
    """
    n, h, w, channels = x.shape
    k, features = kernel.shape[0], kernel.shape[-1]
    taps = -(-k // stride)
    more = (0, taps * stride - k)
    kernel = jnp.pad(kernel, (more, more, (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features)[::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(taps, taps, channels, -1)
    h, w = h + taps - 1, w + taps - 1
    sides = (taps - 1, taps - 1)
    if taps > 2:
        layout = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, (1, 1), (sides, sides), dimension_numbers=layout)
    else:
        x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)))
        seen = [x[:, i : i + h, j : j + w] for i in range(taps) for j in range(taps)]
        flat = kernel.reshape(-1, kernel.shape[-1])
        y = lax.dot_general(jnp.concatenate(seen, axis=-1), flat, (((3,), (0,)), ((), ())))
    y = y.reshape(n, h, w, stride, stride, features).transpose(0, 1, 3, 2, 4, 5)
    y = y.reshape(n, h * stride, w * stride, features)
    end = k - taps * stride + output_padding - padding
    side = (-padding, end, 0)
    return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), side, side, (0, 0, 0)))


def bilinear_kernel(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Initializes the kernel `[k, k, C, F]` of a transposed convolution to bilinear interpolation.

    The factor is `(k + 1) // 2`; channel `c` of the result is channel `c` of the input.

    >>> bilinear_kernel(jax.random.key(0), (4, 4, 1, 1))[0, :, 0, 0].tolist()
    [0.0625, 0.1875, 0.1875, 0.0625]
    """
    del key
    size, _, channels, features = shape
    factor = (size + 1) // 2
    tent = 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor
    kernel = np.multiply.outer(np.outer(tent, tent), np.eye(channels, features))
    return jnp.asarray(kernel, dtype)


class TransposedConv(nn.Module):
    """Transposed convolution that upsamples by a whole factor and starts as bilinear interpolation.

    Equal to `torch.nn.ConvTranspose2d(C, features, kernel_size=k, stride=f, padding=p,
    output_padding=o)` whose `p = ceil((k - f) / 2)` and `o = 2 * p - (k - f)` make the result
    exactly `f` times as large.

    Attributes:
        features: Channels of the result.
        factor: Factor of the result's size, `f`. None takes the smallest that reaches the size with which the parameters
            are made, and keeps it.
        kernel_size: Height and width of the kernel, `k`; by default `2 * f - f % 2`, that of bilinear interpolation.
            Another size needs a factor and a `kernel_init`.
        use_bias: Whether a bias is added.
        kernel_init: Initializer of the kernel `[k, k, C, features]`; by default bilinear interpolation.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters.

    Raises:
        InputError: A factor below one, or a kernel size without a factor.

    >>> layer = TransposedConv(3, 2, use_bias=False)
    >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 3)), size=(7, 8))
    >>> y.shape, float(y[0, 3, 3, 0])
    ((1, 7, 8, 3), 1.0)
    """

    features: int
    factor: int | None = 2
    kernel_size: int | None = None
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = bilinear_kernel
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.factor is not None and self.factor < 1:
            raise InputError(f"factor={self.factor}: upsampling is by a whole factor of at least 1")
        if self.kernel_size is not None and (self.factor is None or self.kernel_size < 1):
            raise InputError(
                f"kernel_size={self.kernel_size} with factor={self.factor}: "
                "a kernel has at least one pixel, and one of a chosen size needs a factor"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, size: Size | None = None) -> Array:
        """Maps `[N, H, W, C]` to `[N, f * H, f * W, features]`, or to `size`.

        A larger result is cropped at the bottom and right, a smaller one repeats its last row and column.
        """
        f = self.factor or self._factor_of(x, size)
        k = self.kernel_size or 2 * f - f % 2
        shape = (k, k, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = (
            self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            if self.use_bias
            else None
        )
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        padding = max(0, -(-(k - f) // 2))
        y = transposed_convolution(
            x, kernel, f, padding=padding, output_padding=2 * padding - (k - f)
        )
        y = y if bias is None else add_bias(y, bias)
        return y if size is None else crop_or_pad(y, size, f)

    def _factor_of(self, x: Array, size: Size | None) -> int:
        if self.has_variable("params", "kernel"):
            return (self.get_variable("params", "kernel").shape[0] + 1) // 2
        if size is None:
            raise InputError("a transposed convolution needs a factor or a size")
        return smallest_factor(x, size)
