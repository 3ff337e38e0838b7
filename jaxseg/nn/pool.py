"""Pooling with PyTorch's semantics, and its inverse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.errors import InputError
from jaxseg.nn.cpu.max_pool_gradient import max_pool_by_axes, max_pool_gradient
from jaxseg.nn.cpu.platform import by_platform, is_disabled
from jaxseg.typing import Array, Size


def max_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """Returns the maximum of each window; padding never is the maximum.

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
    if is_disabled():
        return _reduce_window(x, window, stride, padding)
    return _max_pool(x, window, stride, padding)


def _reduce_window(x: Array, window: int, stride: int, padding: int) -> Array:
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), pads
    )


def _max_pool_by_platform(x: Array, *sizes: int) -> Array:
    return by_platform(
        x, cpu=lambda x: max_pool_by_axes(x, *sizes), plain=lambda x: _reduce_window(x, *sizes)
    )


def _max_pool_backward(
    window: int, stride: int, padding: int, x: Array, cotangent: Array
) -> tuple[Array]:
    """XLA's gradient is a scatter, which on a CPU goes through the windows one by one: see `max_pool_gradient.py`."""
    sizes = {"window": window, "stride": stride, "padding": padding}
    gradient = by_platform(
        x,
        cotangent,
        cpu=partial(max_pool_gradient, **sizes),
        plain=lambda x, cotangent: jax.vjp(partial(_reduce_window, **sizes), x)[1](cotangent)[0],
    )
    return (gradient,)


_max_pool = jax.custom_vjp(_max_pool_by_platform, nondiff_argnums=(1, 2, 3))
_max_pool.defvjp(lambda x, *sizes: (_max_pool_by_platform(x, *sizes), x), _max_pool_backward)


def max_pool_with_indices(
    x: Array, window: int, stride: int | None = None, padding: int = 0
) -> tuple[Array, Array]:
    """Returns the maximum of each window and its index, as `torch.nn.functional.max_pool2d` does.

    Args:
        x: `[N, H, W, C]`, floating point.
        window: Height and width of the window in pixels.
        stride: Step between windows; by default the window's size.
        padding: Pixels of minus infinity on every side, at most half a window.

    Returns:
        The maxima `[N, h, w, C]` with `h = (H + 2 * padding - window) // stride + 1`, and their indices as int32 of the
        same shape: `row * W + column` in `x` for each channel. Among equal maxima the first is taken, and it gets the
        gradient.

    Raises:
        InputError: The padding is more than half a window, or the window is larger than the padded image.

    References:
        Badrinarayanan, Kendall and Cipolla, SegNet, 2017, https://arxiv.org/abs/1511.00561

    >>> values, indices = max_pool_with_indices(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)
    >>> values[0, :, :, 0].tolist(), indices[0, :, :, 0].tolist()
    ([[5.0, 7.0], [13.0, 15.0]], [[5, 7], [13, 15]])
    """
    stride = window if stride is None else stride
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
    index = _flat_indices(np.maximum(rows, 0), np.maximum(columns, 0), width, best.shape)
    for i in range(window):
        for j in range(window):
            value = tap(i, j)
            better = (value > best) | jnp.isnan(value)
            best = jnp.where(better, value, best)
            here = _flat_indices(rows + i, columns + j, width, best.shape)
            index = jnp.where(better, here, index)
    return best, index


def _flat_indices(
    rows: np.ndarray, columns: np.ndarray, width: int, shape: tuple[int, ...]
) -> Array:
    indices = (rows[:, None] * width + columns)[None, :, :, None]
    return jnp.broadcast_to(jnp.asarray(indices, jnp.int32), shape)


def max_unpool(x: Array, size: Size, *, indices: Array) -> Array:
    """Puts each value at the index returned by `max_pool_with_indices`; all other pixels are zero.

    With bound indices, `partial(max_unpool, indices=indices)`, it is an `Upsample`.

    Args:
        x: `[N, h, w, C]`, the values.
        size: Height and width `(H, W)` of the map that was pooled.
        indices: `[N, h, w, C]`, integers: `row * W + column` in the result for each channel.

    Returns:
        `[N, H, W, C]`. Where windows overlapped and several values have one index, the result holds one of them (after
        the matching pool they are equal), and each of them gets the gradient, as in `torch.nn.functional.max_unpool2d`.

    Raises:
        InputError: Values and indices differ in shape.

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> values, indices = max_pool_with_indices(x, 2)
    >>> max_unpool(values, (4, 4), indices=indices)[0, :, :, 0].tolist()
    [[0.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 7.0], [0.0, 0.0, 0.0, 0.0], [0.0, 13.0, 0.0, 15.0]]
    """
    if x.shape != indices.shape:
        raise InputError(f"values {x.shape} and indices {indices.shape} differ in shape")
    n, _, _, channels = x.shape
    flat, indices = (array.reshape(n, -1, channels) for array in (x, indices))
    scatter = _scatter if is_disabled() else _scatter_with_gradient
    return scatter(flat, indices, size[0] * size[1]).reshape(n, *size, channels)


def _scatter(x: Array, indices: Array, length: int) -> Array:
    images, channels = jnp.arange(x.shape[0])[:, None, None], jnp.arange(x.shape[2])[None, None]
    empty = jnp.zeros((x.shape[0], length, x.shape[2]), x.dtype)
    return empty.at[images, indices, channels].set(x)


_scatter_with_gradient = jax.custom_vjp(_scatter, nondiff_argnums=(2,))
_scatter_with_gradient.defvjp(
    lambda x, indices, length: (_scatter(x, indices, length), indices),
    # JAX's transpose of a scatter gives the gradient to one of several values at an index.
    lambda length, indices, cotangent: (jnp.take_along_axis(cotangent, indices, axis=1), None),
)


def adaptive_avg_pool(x: Array, size: Size) -> Array:
    """Returns means over `size` windows that cover the map, as `torch.nn.functional.adaptive_avg_pool2d` does.

    Window `i` of `n` covers the rows from `floor(i * H / n)` to `ceil((i + 1) * H / n)`: windows overlap where `n` does
    not divide `H`, and pixels repeat where the map is smaller than `size`.

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
