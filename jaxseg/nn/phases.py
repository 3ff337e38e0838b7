"""Bilinear interpolation by a whole factor as sums of shifted maps, for CPUs and for images cut into bands of rows.

Output pixel `factor * k + r` lies less than a pixel from input pixel `k`, whichever convention holds, so that it is a
weighted sum of the pixels `k - 1`, `k` and `k + 1`: each of `factor` phases `r` is a sum of three shifted maps.

On a CPU XLA's product with a matrix takes several times as long: 104 and 100 ms of processor time forward and backward to
double 4 x 128 x 128 x 32 numbers, where this takes 26 and 43; 18 and 20 instead of 6 and 5 to enlarge 64 x 64 x 21 eight
times (jax 0.10, on a machine with other work). And a matrix needs all rows, where a shift by one needs one row of the
neighbouring band: XLA gathers the rows for the first and exchanges one for the second.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.typing import Array

LARGEST = 8  # factors above it have too many phases to write down


def enlarge(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """The product with a matrix of bilinear weights by a whole factor, along an axis.

    Args:
        x: `[N, H, W, C]`, floating point.
        matrix: `[factor * length, length]`; rows `factor * k` to `factor * k + factor - 1` are zero but for the columns
            `k - 1`, `k` and `k + 1`.
        axis: 1 or 2, of that length.

    Returns:
        The map, `factor` times as long along the axis.

    >>> matrix = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    >>> enlarge(jnp.arange(2.0).reshape(1, 2, 1, 1), matrix, 1).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    neighbours = _shifted(x, axis, 1), x, _shifted(x, axis, -1)
    phases = [
        sum(
            value * weight
            for value, weight in zip(neighbours, weights, strict=True)
            if weight.any()
        )
        for weights in _weights(x, matrix, axis)
    ]
    shape = list(x.shape)
    shape[axis] = len(matrix)
    return jnp.stack(phases, axis + 1).reshape(shape)


def enlarge_gradient(cotangent: Array, matrix: np.ndarray, axis: int) -> Array:
    """What the input of `enlarge` gets of its result's cotangent.

    >>> matrix = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    >>> enlarge_gradient(jnp.arange(4.0).reshape(1, 4, 1, 1), matrix, 1).ravel().tolist()
    [1.25, 4.75]
    """
    shape = list(cotangent.shape)
    shape[axis : axis + 1] = [matrix.shape[1], -1]
    phases = cotangent.reshape(shape)
    of_neighbours = [jnp.zeros_like(lax.index_in_dim(phases, 0, axis + 1, keepdims=False))] * 3
    for r, weights in enumerate(_weights(cotangent, matrix, axis)):
        phase = lax.index_in_dim(phases, r, axis + 1, keepdims=False)
        of_neighbours = [
            total + phase * weight if weight.any() else total
            for total, weight in zip(of_neighbours, weights, strict=True)
        ]
    before, own, after = of_neighbours
    return _shifted(before, axis, -1) + own + _shifted(after, axis, 1)


def _weights(x: Array, matrix: np.ndarray, axis: int) -> np.ndarray:
    """`[factor, 3, ...]`: of each phase the weights of the pixel before, of its own and of the one after."""
    length = matrix.shape[1]
    wide = np.pad(matrix, ((0, 0), (1, 1))).reshape(length, -1, length + 2)
    k = np.arange(length)
    weights = np.stack([wide[k, :, k + i] for i in range(3)])  # [3, length, factor]
    shape = [length if i == axis else 1 for i in range(x.ndim)]
    return weights.transpose(2, 0, 1).reshape(-1, 3, *shape).astype(x.dtype)


def _shifted(x: Array, axis: int, by: int) -> Array:
    """Pixels moved on by so many places; zeros where none comes from."""
    sides = [(0, 0, 0)] * x.ndim
    sides[axis] = (by, -by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), sides)
