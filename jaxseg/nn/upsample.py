"""Every kind of upsampling behind one signature: `upsample(x, size)`, `[N, H, W, C]` to `[N, *size, C]`.

What takes a choice of upsampling (`UNet`, `SegmentationModel`) takes such a callable, an
`Upsample`. Any whole factor `f` is the size `(f * H, f * W)`; any other size is reached exactly.

| kind | parameters | between whole factors |
|---|---|---|
| `nearest` | none | interpolates |
| `bilinear`, `bilinear_aligned` | none | interpolates |
| `partial(max_unpool, indices=places)` | none | the places tell |
| `transposed` | a kernel, at first bilinear | cuts the end |
| `sub_pixel` | a convolution, at first nearest | cuts the end |
| `partial(pixel_shuffle, factor=f)` | none; divides `C` by `f * f` | cuts the end |

The learned kinds make a layer of their own wherever they are called inside of a module's
`nn.compact` method. Options are bound by `functools.partial`, such as `partial(transposed,
factor=4)`; `UPSAMPLINGS` has the kinds by name, for recipes.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxseg.errors import InputError
from jaxseg.nn.convolution import convolution
from jaxseg.nn.fit import fit, least_factor
from jaxseg.nn.resize import bilinear, bilinear_aligned, nearest
from jaxseg.nn.transposed import TransposedConv, add_bias, bilinear_kernel
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
    """A `TransposedConv` of its own at every call, inside of a module's `nn.compact` method.

    Args:
        x: `[N, H, W, C]`, floating point; computed in its type.
        size: Height and width of the result.
        factor: The whole factor to upsample by; the least that reaches `size` when the parameters
            are made, by default. What is too much is cut at the bottom and right.
        kernel_size: Of the kernel, as `TransposedConv` has it.
        kernel_init: Of the kernel; bilinear interpolation by default.
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
    """A `SubPixelConv` of its own at every call, inside of a module's `nn.compact` method.

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
    """A 3x3 convolution to `factor**2` times the channels, which are then spread over space.

    At first the pixels of a block are equal, so that it upsamples what it convolves by repeating.

    Attributes:
        features: Channels of the result.
        factor: How many times larger the result is, `f`. None takes the least that reaches the size
            at which the parameters are made, and keeps it.
        kernel_init: Of the `[3, 3, C, features]` kernel that each of a block's pixels starts with.
        dtype: Type to compute in; that of inputs and parameters by default.
        param_dtype: Type of parameters.

    References:
        Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
        Convolutional Neural Network, 2016, https://arxiv.org/abs/1609.05158; Aitken et al.,
        Checkerboard artifact free sub-pixel convolution, 2017, https://arxiv.org/abs/1707.02937,
        for the start.

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
        """Maps `[N, H, W, C]` to `[N, f * H, f * W, features]`, or to `size`, cut at the end."""
        f = self.factor or self._settled(x, size)

        def repeated(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jnp.repeat(self.kernel_init(key, (*shape[:3], self.features), dtype), f * f, -1)

        shape = (3, 3, x.shape[-1], f * f * self.features)
        kernel = self.param("kernel", repeated, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (shape[-1],), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        layout = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        same = ((1, 1), (1, 1))
        y = convolution(x, kernel, (1, 1), same, rhs_dilation=(1, 1), dimension_numbers=layout)
        y = depth_to_space(add_bias(y, bias), f)
        return y if size is None else fit(y, size, f)

    def _settled(self, x: Array, size: Size | None) -> int:
        if self.has_variable("params", "kernel"):
            return math.isqrt(self.get_variable("params", "kernel").shape[-1] // self.features)
        if size is None:
            raise InputError("a sub-pixel convolution needs a factor or a size")
        return least_factor(x, size)


def pixel_shuffle(x: Array, size: Size, *, factor: int | None = None) -> Array:
    """Spreads blocks of channels over space, as `torch.nn.PixelShuffle` does, to a given size.

    The only kind that changes the channels, which whatever follows has to expect; `sub_pixel` keeps
    them.

    Args:
        x: `[N, H, W, C]` of any type; `factor**2` divides `C`.
        size: Height and width of the result.
        factor: The whole factor to upsample by; the least that reaches `size` by default, which of
            a map of one pixel is no more than a guess. What is too much is cut at the bottom and
            right.

    Returns:
        `[N, *size, C / factor**2]` of the same type.

    Raises:
        InputError: `factor**2` does not divide the channels, or the factor does not lead to `size`.

    >>> pixel_shuffle(jnp.arange(4.0).reshape(1, 1, 1, 4), (2, 2))[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    factor = factor or least_factor(x, size)
    return fit(depth_to_space(x, factor), size, factor)


def depth_to_space(x: Array, factor: int) -> Array:
    """The rearrangement of `pixel_shuffle` by a whole factor.

    Args:
        x: `[N, H, W, C * factor**2]`; channel `c * factor**2 + i * factor + j` becomes pixel `(i,
            j)` of its block in channel `c`.
        factor: How many times larger the result is.

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
"""The kinds that need no more than a name: neither a pool's places nor, where maps may have one pixel, a factor."""
