"""Interpolation to any size, up or down, equal to torch's without antialiasing.

Sizes are static under jit, so source positions and weights are NumPy constants. Both functions work axis by axis. Bilinear
weights form a matrix, because the gradient of its product is the transposed product, where that of a gather would be a
scatter. On a CPU, and along rows that are sharded, upsampling by a small whole factor is a sum of shifted maps instead
(`bilinear_upsample.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.nn.cpu import bilinear_upsample
from jaxseg.nn.cpu.platform import by_platform, has_spatial_shards, is_disabled
from jaxseg.typing import Array, Size

Form = Callable[[Array], Array]


def nearest(x: Array, size: Size) -> Array:
    """Resizes by nearest interpolation: pixel `i` of the result is the pixel `floor(i * in / out)` of the input.

    Args:
        x: `[N, H, W, C]` of any type.
        size: Height and width of the result.

    Returns:
        `[N, *size, C]` of the same type. Gradients of floating point maps are added up in float32
        or wider.

    >>> nearest(jnp.arange(3).reshape(1, 1, 3, 1), (1, 5))[0, 0, :, 0].tolist()
    [0, 0, 1, 1, 2]
    """
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    y = x.astype(np.promote_types(np.float32, x.dtype)) if floating else x
    return _nearest_axis(_nearest_axis(y, 1, size[0]), 2, size[1]).astype(x.dtype)


def _nearest_axis(x: Array, axis: int, out: int) -> Array:
    length = x.shape[axis]
    if out == length:
        return x
    index = nearest_index(length, out)
    factor = -(-out // length)
    if np.array_equal(index, np.arange(out) // factor):
        # Every pixel is repeated `factor` times, the last one maybe fewer: the gradient is then a sum.
        return lax.slice_in_dim(jnp.repeat(x, factor, axis), 0, out, axis=axis)
    return jnp.take(x, index, axis)


def nearest_index(length: int, out: int) -> np.ndarray:
    """Returns, for each of `out` pixels, the index of the nearest of `length` pixels.

    The arithmetic is torch's for float32 images, rounding included: exact integers would differ at some pixels, such as
    pixel 41 of 82 made of 2.
    """
    position = np.arange(out, dtype=np.float32) * (np.float32(length) / np.float32(out))
    return np.minimum(np.floor(position).astype(int), length - 1)


def bilinear(x: Array, size: Size, *, align_corners: bool = False) -> Array:
    """Resizes by bilinear interpolation: the weighted mean of the two nearest pixels in both directions.

    Output pixel `i` lies at `(i + 1/2) * in / out - 1/2` of the input, clipped at zero; with `align_corners` at
    `i * (in - 1) / (out - 1)`, so that the corner pixels of both maps coincide.

    Args:
        x: `[N, H, W, C]`, floating point. Computed in float32 or wider.
        size: Height and width of the result.
        align_corners: Whether the corner pixels of both maps coincide.

    Returns:
        `[N, *size, C]` of the same type.

    >>> x = jnp.arange(2.0).reshape(1, 1, 2, 1)
    >>> bilinear(x, (1, 4)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    >>> bilinear(x, (1, 5), align_corners=True).ravel().tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    dtype = np.promote_types(np.float32, x.dtype)
    y: Any = x.astype(dtype)
    for axis in (1, 2):
        length, out = x.shape[axis], size[axis - 1]
        factor, rest = divmod(out, length)
        if not is_disabled() and not rest and 2 <= factor <= bilinear_upsample.MAX_FACTOR:
            y = _upsample(y, factor, axis, align_corners)
        elif out != length:
            y = _multiply(y, _bilinear_matrix(length, out, align_corners), axis)
    return y.astype(x.dtype)


bilinear_aligned = partial(bilinear, align_corners=True)
"""`bilinear` with `align_corners=True`."""


def _multiply(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """The product of a matrix `[out, length]` and the map along an axis."""
    return jnp.einsum(
        "oh,nhwc->nowc" if axis == 1 else "ow,nhwc->nhoc",
        jnp.asarray(matrix, x.dtype),
        x,
        precision=lax.Precision.HIGHEST,
    )


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _upsample(x: Array, factor: int, axis: int, align_corners: bool) -> Array:
    """The map, `factor` times as long along an axis."""
    matrix = _bilinear_matrix(x.shape[axis], factor * x.shape[axis], align_corners)
    return _by_axis(
        axis,
        x,
        lambda x: bilinear_upsample.upsample(x, matrix, axis),
        lambda x: _multiply(x, matrix, axis),
    )


def _upsample_forward(x: Array, *options: Any) -> tuple[Array, None]:
    return _upsample(x, *options), None


def _upsample_backward(
    factor: int, axis: int, align_corners: bool, saved: None, cotangent: Array
) -> tuple[Array]:
    length = cotangent.shape[axis]
    matrix = _bilinear_matrix(length // factor, length, align_corners)
    gradient = _by_axis(
        axis,
        cotangent,
        lambda g: bilinear_upsample.upsample_gradient(g, matrix, axis),
        lambda g: _multiply(g, matrix.T, axis),
    )
    return (gradient,)


def _by_axis(axis: int, x: Array, shifts: Form, product: Form) -> Array:
    if axis == 1 and has_spatial_shards():
        return shifts(
            x
        )  # exchanges one row with a neighbour, where a product with a matrix gathers all rows
    return by_platform(x, cpu=shifts, plain=product)


_upsample.defvjp(_upsample_forward, _upsample_backward)


def _bilinear_matrix(length: int, out: int, align_corners: bool) -> np.ndarray:
    """`[out, length]`: the weight of every input pixel in every output pixel, in float64."""
    i = np.arange(out, dtype=np.float64)
    if align_corners:
        position = i * ((length - 1) / (out - 1) if out > 1 else 0.0)
    else:
        position = np.maximum((i + 0.5) * (length / out) - 0.5, 0.0)
    low = np.minimum(position.astype(int), length - 1)
    high = np.minimum(low + 1, length - 1)
    weight = position - low
    matrix = np.zeros((out, length))
    rows = np.arange(out)
    matrix[rows, low] += 1 - weight
    matrix[rows, high] += weight
    return matrix
