"""The convolution of every network, in the form that is fast where it runs."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.nn import winograd
from jaxseg.nn.platform import by_platform
from jaxseg.typing import Array

_LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""`[N, H, W, C]` with `[h, w, C, D]`."""


def convolution(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    **options: Any,
) -> Array:
    """`lax.conv_general_dilated` as `flax.linen.Conv` calls it, of `[N, H, W, C]` with `[h, w, C, D]`.

    Where the result is smaller than the kernel (the last stage of an encoder on small images) XLA on a CPU takes 20 to
    100 times as long as for a map of 3 x 3 (jax 0.10: 2 x 2 pixels, 512 channels, batch 16: 210 ms instead of 4 ms
    forward, 420 instead of 9 ms with gradients). There the taps are stacked and multiplied as one matrix: the same
    sum, and next to nothing on any device.

    The kernel of a 3x3 convolution of many channels has a gradient of its own for CPUs: see `winograd.py`.

    >>> x, kernel = jnp.ones((1, 2, 2, 4)), jnp.ones((3, 3, 4, 5))
    >>> numbers = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    >>> y = convolution(
    ...     x, kernel, (1, 1), ((1, 1), (1, 1)), rhs_dilation=(1, 1), dimension_numbers=numbers
    ... )
    >>> y.shape, float(y[0, 0, 0, 0])
    ((1, 2, 2, 5), 16.0)
    """
    taps, channels = kernel.shape[:2], kernel.shape[2]
    sizes = [
        (length + sum(pad) - dilation * (tap - 1) - 1) // stride + 1
        for length, pad, dilation, tap, stride in zip(
            x.shape[1:3], padding, rhs_dilation, taps, strides, strict=True
        )
    ]
    if channels != x.shape[-1] or min(sizes) >= min(taps) or min(sizes) < 1:
        every_pixel = tuple(strides) == tuple(rhs_dilation) == (1, 1)
        plain = dimension_numbers == _LAYOUT and options.get("precision") is None
        if every_pixel and plain and winograd.pays(x, kernel):
            return _three_by_three(x, kernel, tuple(padding))
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            **options,
        )
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def seen_by(tap: int, axis: int) -> slice:
        first = tap * rhs_dilation[axis]
        return slice(first, first + (sizes[axis] - 1) * strides[axis] + 1, strides[axis])

    stacked = jnp.concatenate(
        [x[:, seen_by(i, 0), seen_by(j, 1)] for i in range(taps[0]) for j in range(taps[1])], -1
    )
    flat = kernel.reshape(-1, kernel.shape[-1])
    return lax.dot_general(
        stacked, flat, (((3,), (0,)), ((), ())), precision=options.get("precision")
    )


def _plain(x: Array, kernel: Array, padding: tuple[tuple[int, int], ...]) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_LAYOUT)


_three_by_three = jax.custom_vjp(_plain, nondiff_argnums=(2,))


def _backward(
    padding: tuple[tuple[int, int], ...], saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    (of_x,) = jax.vjp(lambda x: _plain(x, kernel, padding), x)[1](gradient)
    of_kernel = by_platform(
        x,
        gradient,
        cpu=partial(winograd.kernel_gradient, padding=padding),
        plain=lambda x, gradient: jax.vjp(lambda k: _plain(x, k, padding), kernel)[1](gradient)[0],
    )
    return of_x, of_kernel


_three_by_three.defvjp(
    lambda x, kernel, padding: (_plain(x, kernel, padding), (x, kernel)), _backward
)
