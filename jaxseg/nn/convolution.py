"""The convolution of every layer: XLA's, and in the forms of `cpu_convolution.py` where those are faster."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxseg.nn import cpu_convolution
from jaxseg.nn.platform import by_platform
from jaxseg.nn.window import Window
from jaxseg.typing import Array


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

    In float32 and float64 its forms and those of its gradient are chosen when the program is lowered, for the platform
    at hand; it then has no forward mode. The numbers are the same up to the order of sums.

    Where the result is smaller than the kernel (the last stage of an encoder on small images) XLA on a CPU takes 20 to
    100 times as long as for a map of 3 x 3 (jax 0.10: 2 x 2 pixels, 512 channels, batch 16: 210 ms instead of 4 ms
    forward, 420 instead of 9 ms with gradients). There the taps are stacked and multiplied as one matrix: the same
    sum, and next to nothing on any device.

    >>> x, kernel = jnp.ones((1, 2, 2, 4)), jnp.ones((3, 3, 4, 5))
    >>> numbers = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    >>> y = convolution(
    ...     x, kernel, (1, 1), ((1, 1), (1, 1)), rhs_dilation=(1, 1), dimension_numbers=numbers
    ... )
    >>> y.shape, float(y[0, 0, 0, 0])
    ((1, 2, 2, 5), 16.0)
    """
    window = Window(tuple(strides), tuple((a, b) for a, b in padding), tuple(rhs_dilation))
    sizes = window.sizes(x.shape, kernel.shape)
    grouped = kernel.shape[2] != x.shape[-1]
    stretched = set(options.get("lhs_dilation") or (1,)) != {1}
    if not grouped and not stretched:
        if 1 <= min(sizes) < min(kernel.shape[:2]):
            return _stacked(x, kernel, window, sizes, options.get("precision"))
        if cpu_convolution.has_forms(x, kernel, **options):
            return _convolution(x, kernel, window)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        **options,
    )


def _stacked(x: Array, kernel: Array, window: Window, sizes: list[int], precision: Any) -> Array:
    """The taps' views of the map, one behind the other, times the kernel as one matrix."""
    x = jnp.pad(x, ((0, 0), *window.padding, (0, 0)))

    def seen_by(tap: int, axis: int) -> slice:
        first, stride = tap * window.dilation[axis], window.strides[axis]
        return slice(first, first + (sizes[axis] - 1) * stride + 1, stride)

    taps = [(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    stacked = jnp.concatenate([x[:, seen_by(i, 0), seen_by(j, 1)] for i, j in taps], -1)
    flat = kernel.reshape(-1, kernel.shape[-1])
    return lax.dot_general(stacked, flat, (((3,), (0,)), ((), ())), precision=precision)


# What is under `jit` is traced and lowered once for a network's many alike layers.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _convolution(x: Array, kernel: Array, window: Window) -> Array:
    if not cpu_convolution.by_winograd(x, kernel, window):
        return window.convolve(x, kernel)
    form = partial(cpu_convolution.forward, window=window)
    return by_platform(x, kernel, cpu=form, plain=window.convolve)


def _forward(x: Array, kernel: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    # Named, so that `keep_products` keeps the result and, as it does not look into the call, nothing else.
    return checkpoint_name(_convolution(x, kernel, window), "convolution"), (x, kernel)


def _backward(window: Window, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    return _gradient(*saved, cotangent, window)


@partial(jax.jit, static_argnums=3)
def _gradient(x: Array, kernel: Array, cotangent: Array, window: Window) -> tuple[Array, Array]:
    form = partial(cpu_convolution.gradient, window=window)
    return by_platform(x, kernel, cotangent, cpu=form, plain=window.gradient)


_convolution.defvjp(_forward, _backward)
