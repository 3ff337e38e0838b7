"""Pooling with PyTorch's semantics, and its inverse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.errors import InputError
from jaxseg.nn.platform import by_platform
from jaxseg.nn.pool_gradient import max_pool_by_axes, max_pool_gradient
from jaxseg.typing import Array, Size


def max_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The maximum of each window; what lies outside of the image never wins.

    Args:
        x: `[N, H, W, C]`, floating point.
        window: Height and width of the window in pixels.
        stride: Step between windows.
        padding: Pixels of minus infinity on every side.

    Returns:
        `[N, (H + 2 * padding - window) // stride + 1, ..., C]`.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 3, 2, 1)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    return _max_pool(x, window, stride, padding)


def _reduced(x: Array, window: int, stride: int, padding: int) -> Array:
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), pads
    )


def _pooled(x: Array, *sizes: int) -> Array:
    return by_platform(
        x, cpu=lambda x: max_pool_by_axes(x, *sizes), plain=lambda x: _reduced(x, *sizes)
    )


_max_pool = jax.custom_vjp(_pooled, nondiff_argnums=(1, 2, 3))
_max_pool.defvjp(
    lambda x, *sizes: (_pooled(x, *sizes), x),
    lambda *arguments: (_max_pool_gradient(*arguments),),
)


def _max_pool_gradient(window: int, stride: int, padding: int, x: Array, gradient: Array) -> Array:
    """XLA's own scatters, one number after the other on a CPU: see `pool_gradient.py`."""
    sizes = {"window": window, "stride": stride, "padding": padding}
    return by_platform(
        x,
        gradient,
        cpu=partial(max_pool_gradient, **sizes),
        plain=lambda x, gradient: jax.vjp(partial(_reduced, **sizes), x)[1](gradient)[0],
    )


def max_pool_with_indices(
    x: Array, window: int, stride: int | None = None, padding: int = 0
) -> tuple[Array, Array]:
    """The maximum of each window and where it was, as `torch.nn.functional.max_pool2d` says it.

    Args:
        x: `[N, H, W, C]`, floating point.
        window: Height and width of the window in pixels.
        stride: Step between windows; the window's size where left out.
        padding: Pixels of minus infinity on every side, at most half a window.

    Returns:
        `[N, h, w, C]` with `h = (H + 2 * padding - window) // stride + 1`, and the places as int32 of the same shape:
        `row * W + column` in `x`, each channel by itself; the first of equal ones. The gradient goes to that place.

    Raises:
        InputError: The padding exceeds half a window, or the window the padded image.

    References:
        Badrinarayanan, Kendall and Cipolla, SegNet, 2017, https://arxiv.org/abs/1511.00561

    >>> values, places = max_pool_with_indices(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)
    >>> values[0, :, :, 0].tolist(), places[0, :, :, 0].tolist()
    ([[5.0, 7.0], [13.0, 15.0]], [[5, 7], [13, 15]])
    """
    stride = stride or window
    height, width = x.shape[1:3]
    if 2 * padding > window or window > min(height, width) + 2 * padding:
        raise InputError(
            f"a window of {window} with padding {padding} on {height} x {width} pixels: padding is at most half a "
            "window, and the window fits into the padded image"
        )
    sides = (padding, padding)
    padded = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-jnp.inf)
    rows, columns = (
        np.arange((length + 2 * padding - window) // stride + 1) * stride - padding
        for length in (height, width)
    )

    def tap(i: int, j: int) -> Array:
        ends = (rows[-1] + padding + i + 1, columns[-1] + padding + j + 1)
        return padded[:, i : ends[0] : stride, j : ends[1] : stride]

    best = jnp.full_like(tap(0, 0), -jnp.inf)
    place = _places(np.maximum(rows, 0), np.maximum(columns, 0), width, best.shape)
    for i in range(window):
        for j in range(window):
            value = tap(i, j)
            better = (value > best) | jnp.isnan(value)
            best = jnp.where(better, value, best)
            place = jnp.where(better, _places(rows + i, columns + j, width, best.shape), place)
    return best, place


def _places(rows: np.ndarray, columns: np.ndarray, width: int, shape: tuple[int, ...]) -> Array:
    numbers = (rows[:, None] * width + columns)[None, :, :, None]
    return jnp.broadcast_to(jnp.asarray(numbers, jnp.int32), shape)


def max_unpool(x: Array, size: Size, *, indices: Array) -> Array:
    """Puts each value back to the place it had before `max_pool_with_indices`; all else is zero.

    With its places bound, `partial(max_unpool, indices=places)`, it is an `Upsample`.

    Args:
        x: `[N, h, w, C]`, values to put.
        size: Height and width `(H, W)` of what was pooled, which the places alone do not tell.
        indices: `[N, h, w, C]`, integers: `row * W + column` in the result, each channel by itself.

    Returns:
        `[N, H, W, C]`. Where windows overlapped and several values go to one place, one of them is there (after the
        matching pool they are equal); the gradient reaches each, as `torch.nn.functional.max_unpool2d`'s does.

    Raises:
        InputError: Shapes of values and places differ.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> values, places = max_pool_with_indices(x, 2)
    >>> max_unpool(values, (4, 4), indices=places)[0, :, :, 0].tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 7.0], [0.0, 0.0, 0.0, 0.0], [0.0, 13.0, 0.0, 15.0]]
    """
    if x.shape != indices.shape:
        raise InputError(f"values {x.shape} and places {indices.shape} differ in shape")
    n, _, _, channels = x.shape
    flat, places = (array.reshape(n, -1, channels) for array in (x, indices))
    return _scatter(flat, places, size[0] * size[1]).reshape(n, *size, channels)


def _put(x: Array, places: Array, length: int) -> Array:
    images, channels = jnp.arange(x.shape[0])[:, None, None], jnp.arange(x.shape[2])[None, None]
    return jnp.zeros((x.shape[0], length, x.shape[2]), x.dtype).at[images, places, channels].set(x)


_scatter = jax.custom_vjp(_put, nondiff_argnums=(2,))
_scatter.defvjp(
    lambda x, places, length: (_put(x, places, length), places),
    # Not the transpose of the scatter, which would favour one of several values at a place.
    lambda length, places, gradient: (jnp.take_along_axis(gradient, places, axis=1), None),
)


def adaptive_avg_pool(x: Array, size: Size) -> Array:
    """The mean over `size` windows that cover the map, as `torch.nn.functional.adaptive_avg_pool2d`.

    Window `i` of `n` covers the rows from `floor(i * H / n)` to `ceil((i + 1) * H / n)`: windows
    overlap where `n` does not divide `H`, and a map smaller than `size` is spread.

    Args:
        x: `[N, H, W, C]`, floating point. Computed in float32 or wider.
        size: Height and width of the result.

    Returns:
        `[N, *size, C]` of the same type.

    >>> adaptive_avg_pool(jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 2)).ravel().tolist()
    [1.0, 3.0]
    """
    dtype = np.promote_types(np.float32, x.dtype)
    y = x.astype(dtype)
    for axis, form in ((1, "oh,nhwc->nowc"), (2, "ow,nhwc->nhoc")):
        if x.shape[axis] != size[axis - 1]:
            matrix = jnp.asarray(_averages(x.shape[axis], size[axis - 1]), dtype)
            y = jnp.einsum(form, matrix, y, precision=lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _averages(length: int, out: int) -> np.ndarray:
    """`[out, length]`: the weight of every pixel in every mean, in float64."""
    i, pixel = np.arange(out)[:, None], np.arange(length)[None]
    inside = (pixel >= i * length // out) & (pixel < -(-(i + 1) * length // out))
    return inside / inside.sum(1, keepdims=True)
