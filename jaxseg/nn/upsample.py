"""Upsampling functions of one signature: `upsample(x, size)`, `[N, H, W, C]` to `[N, *size, C]`.

`UNet` and `SegmentationModel` take such a callable, an `Upsample`. Every function reaches any size exactly.

| function | parameters | at sizes between whole factors |
|---|---|---|
| `nearest` | none | interpolates |
| `bilinear`, `bilinear_aligned` | none | interpolates |
| `partial(max_unpool, indices=indices)` | none | the indices decide |
| `transposed` | a kernel, initially bilinear | crops the end |
| `sub_pixel` | a convolution, initially nearest | crops the end |
| `partial(pixel_shuffle, factor=f)` | none; divides `C` by `f * f` | crops the end |

`transposed` and `sub_pixel` create a layer at every call inside of a module's `nn.compact` method. Options are bound by
`functools.partial`, such as `partial(transposed, factor=4)`; `UPSAMPLINGS` maps names to functions, for recipes.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxseg.errors import InputError
from jaxseg.nn.conv import add_bias, convolve
from jaxseg.nn.cpu.conv_window import Window
from jaxseg.nn.crop_or_pad import crop_or_pad, smallest_factor
from jaxseg.nn.resize import bilinear, bilinear_aligned, nearest
from jaxseg.nn.transposed import TransposedConv, bilinear_kernel
from jaxseg.typing import Array, Size, Upsample


def transposed(
    x: Array,
    size: Size,
    *,
    factor: int | None = None,
    kernel_size: int | None = None,
    kernel_init: nn.initializers.Initializer = bilinear_kernel,
    param_dtype: Any = jnp.float32,
) -> Array:
    """Upsamples by a new `TransposedConv`, to call inside of a module's `nn.compact` method.

    Args:
        x: `[N, H, W, C]`, floating point; computed in its type.
        size: Height and width of the result.
        factor: The whole factor to upsample by; by default the smallest that reaches `size` when the parameters are
            made. A larger result is cropped at the bottom and right.
        kernel_size: Height and width of the kernel, as in `TransposedConv`.
        kernel_init: Initializer of the kernel; by default bilinear interpolation.
        param_dtype: Type of parameters.

    Returns:
        `[N, *size, C]` of the same type.

    Raises:
        InputError: The factor does not lead to `size`.

    >>> class Twice(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return transposed(x, (2 * x.shape[1], 2 * x.shape[2]))
    >>> y, variables = Twice().init_with_output(jax.random.key(0), jnp.ones((1, 2, 3, 5)))
    >>> y.shape, variables["params"]["TransposedConv_0"]["kernel"].shape
    ((1, 4, 6, 5), (4, 4, 5, 5))
    """
    layer = TransposedConv(
        x.shape[-1],
        factor,
        kernel_size,
        kernel_init=kernel_init,
        dtype=x.dtype,
        param_dtype=param_dtype,
    )
    return layer(x, size)


def sub_pixel(
    x: Array, size: Size, *, factor: int | None = None, param_dtype: Any = jnp.float32
) -> Array:
    """Upsamples by a new `SubPixelConv`, to call inside of a module's `nn.compact` method.

    Args:
        x: `[N, H, W, C]`, floating point; computed in its type.
        size: Height and width of the result.
        factor: As in `transposed`.
        param_dtype: Type of parameters.

    Returns:
        `[N, *size, C]` of the same type.

    Raises:
        InputError: The factor does not lead to `size`.

    >>> class Twice(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return sub_pixel(x, (2 * x.shape[1], 2 * x.shape[2]))
    >>> y, variables = Twice().init_with_output(jax.random.key(0), jnp.ones((1, 2, 3, 5)))
    >>> y.shape, variables["params"]["SubPixelConv_0"]["kernel"].shape
    ((1, 4, 6, 5), (3, 3, 5, 20))
    """
    layer = SubPixelConv(x.shape[-1], factor, dtype=x.dtype, param_dtype=param_dtype)
    return layer(x, size)


class SubPixelConv(nn.Module):
    """A 3x3 convolution to `factor**2` times the channels, which are then rearranged to pixels.

    Initially the pixels of a block are equal, so that the layer is a convolution and nearest interpolation.

    Attributes:
        features: Channels of the result.
        factor: Factor of the result's size, `f`. None takes the smallest that reaches the size with which the parameters
            are made, and keeps it.
        kernel_init: Initializer of the kernel `[3, 3, C, features]` that all pixels of a block start with.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters.

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
        Convolutional Neural Network, 2016, https://arxiv.org/abs/1609.05158; Aitken et al.,
        Checkerboard artifact free sub-pixel convolution, 2017, https://arxiv.org/abs/1707.02937,
        for the initialization.

    >>> y, _ = SubPixelConv(3, 2).init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 5)))
    >>> y.shape, bool((y[:, ::2] == y[:, 1::2]).all())
    ((1, 8, 8, 3), True)
    """

    features: int
    factor: int | None = 2
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: Size | None = None) -> Array:
        """Maps `[N, H, W, C]` to `[N, f * H, f * W, features]`, or to `size`, cropped at the end."""
        f = self.factor or self._factor_of(x, size)

        def repeated(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jnp.repeat(self.kernel_init(key, (*shape[:3], self.features), dtype), f * f, -1)

        shape = (3, 3, x.shape[-1], f * f * self.features)
        kernel = self.param("kernel", repeated, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (shape[-1],), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(x, kernel, Window(padding=((1, 1), (1, 1))))
        y = depth_to_space(add_bias(y, bias), f)
        return y if size is None else crop_or_pad(y, size, f)

    def _factor_of(self, x: Array, size: Size | None) -> int:
        if self.has_variable("params", "kernel"):
            return math.isqrt(self.get_variable("params", "kernel").shape[-1] // self.features)
        if size is None:
            raise InputError("a sub-pixel convolution needs a factor or a size")
        return smallest_factor(x, size)


def pixel_shuffle(x: Array, size: Size, *, factor: int | None = None) -> Array:
    """Rearranges blocks of channels to pixels, as `torch.nn.PixelShuffle` does, to any size.

    It divides the number of channels by `factor**2`; `sub_pixel` keeps it.

    Args:
        x: `[N, H, W, C]` of any type; `factor**2` divides `C`.
        size: Height and width of the result.
        factor: The whole factor to upsample by; by default the smallest that reaches `size`, which is a guess for a map
            of one pixel. A larger result is cropped at the bottom and right.

    Returns:
        `[N, *size, C / factor**2]` of the same type.

    Raises:
        InputError: `factor**2` does not divide the channels, or the factor does not lead to `size`.

    >>> pixel_shuffle(jnp.arange(4.0).reshape(1, 1, 1, 4), (2, 2))[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    factor = factor or smallest_factor(x, size)
    return crop_or_pad(depth_to_space(x, factor), size, factor)


def depth_to_space(x: Array, factor: int) -> Array:
    """Rearranges blocks of channels to pixels by a whole factor.

    Args:
        x: `[N, H, W, C * factor**2]`; channel `c * factor**2 + i * factor + j` becomes pixel `(i, j)` of its block in
            channel `c`.
        factor: Factor of the result's height and width.

    Returns:
        `[N, factor * H, factor * W, C]`.

    Raises:
        InputError: `factor**2` does not divide the channels.

    >>> depth_to_space(jnp.arange(8.0).reshape(1, 1, 1, 8), 2)[0, :, :, 1].tolist()
    [[4.0, 5.0], [6.0, 7.0]]
    """
    n, h, w, channels = x.shape
    if factor < 1 or channels % factor**2:
        raise InputError(f"{channels} channels are not a multiple of factor {factor} squared")
    x = x.reshape(n, h, w, -1, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, h * factor, w * factor, -1)


UPSAMPLINGS: dict[str, Upsample] = {
    "nearest": nearest,
    "bilinear": bilinear,
    "bilinear_aligned": bilinear_aligned,
    "transposed": transposed,
    "sub_pixel": sub_pixel,
}
"""Upsampling functions by name; those that need indices or a factor are not among them."""
