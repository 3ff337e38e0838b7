"""The gradient of a 3x3 convolution's kernel by Winograd's method, for CPUs: 16 products instead of 36 for four pixels.

`F(2 x 2, 3 x 3)`: the map is cut into tiles of 4 x 4 pixels that overlap by two. With

    B^T = [1  0 -1  0]    A = [1  0]    G = [ 1    0   0 ]
          [0  1  1  0]        [1  1]        [1/2  1/2 1/2]
          [0 -1  1  0]        [1 -1]        [1/2 -1/2 1/2]
          [0  1  0 -1]        [0 -1]        [ 0    0   1 ]

a tile d and the 2 x 2 cotangents y of what it gives become B^T d B and A y A^T; each of the 16 places, over all tiles, is
one matrix product over the channels, and G^T m G is the kernel's gradient. But for rounding it is the plain sum.

XLA's own form turns maps and cotangents round first. Milliseconds of processor time on an EPYC, batch 4, float32, jax 0.10:

| channels, size | XLA | so |
|---|---|---|
| 128, 32 x 32 | 18.1 | 9.4 |
| 256, 16 x 16 | 15.5 | 7.8 |
| 512, 8 x 8 | 13.8 | 8.7 |
| 768 to 256, 16 x 16 | 44.6 | 23.4 |

The same method for the result and for the gradient of the input wins a third of their time when they run alone, but
nothing in a whole network, whose maps do not stay in the cache; and it doubles the time to compile.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax

from jaxseg.typing import Array

Padding = Sequence[tuple[int, int]]
Grid = list[list[Array]]
"""Arrays by row and column of a tile."""

LEAST_CHANNELS = 128
"""With fewer, on either side, maps are large, and their transforms leave the cache."""
_TYPES = (jnp.float32, jnp.float64)  # a transform in bfloat16 would lose digits


def pays(x: Array, kernel: Array) -> bool:
    """Whether a 3x3 convolution without stride and dilation has this gradient on a CPU.

    >>> pays(jnp.zeros((1, 8, 8, 128)), jnp.zeros((3, 3, 128, 128)))
    True
    """
    return (
        kernel.shape[:2] == (3, 3)
        and x.shape[-1] == kernel.shape[2]
        and min(kernel.shape[2:]) >= LEAST_CHANNELS
        and x.dtype == kernel.dtype
        and x.dtype in _TYPES
    )


def kernel_gradient(x: Array, gradient: Array, padding: Padding) -> Array:
    """What the kernel of a 3x3 convolution gets of its result's cotangent.

    Args:
        x: `[N, H, W, C]`, floating point.
        gradient: `[N, h, w, D]` of the same type.
        padding: Zeros above and below, left and right, that the convolution added to `x`.

    Returns:
        `[3, 3, C, D]`.

    References:
        Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015,
        https://arxiv.org/abs/1509.09308, F(3 x 3, 2 x 2)

    >>> x, ones = jnp.arange(16.0).reshape(1, 4, 4, 1), jnp.ones((1, 2, 2, 1))
    >>> kernel_gradient(x, ones, ((0, 0), (0, 0)))[..., 0, 0].tolist()
    [[10.0, 14.0, 18.0], [26.0, 30.0, 34.0], [42.0, 46.0, 50.0]]
    """
    # Or XLA makes the tiles in the forward pass already and keeps them.
    x, gradient = lax.optimization_barrier((x, gradient))
    counts = [-(-length // 2) for length in gradient.shape[1:3]]
    products = [
        [_product(a, b) for a, b in zip(*rows, strict=True)]
        for rows in zip(_tiles(x, padding, counts), _spread(gradient, counts), strict=True)
    ]

    def back(m: Sequence[Array]) -> tuple[Array, ...]:
        even, odd = (m[1] + m[2]) / 2, (m[1] - m[2]) / 2
        return m[0] + even, odd, even + m[3]

    return jnp.stack([jnp.stack(row) for row in _both_ways(back, products)])


def _tiles(x: Array, padding: Padding, counts: Sequence[int]) -> Grid:
    """B^T d B of every tile: for each place in a tile, `[N, rows of tiles, columns of tiles, C]`."""
    sides = [
        (before, 2 * count + 2 - length - before, 0)
        for count, length, (before, _) in zip(counts, x.shape[1:3], padding, strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *sides, (0, 0, 0)))
    x = lax.optimization_barrier(x)  # or what made it is computed again for each place
    rows, columns = (2 * count - 1 for count in counts)
    return _both_ways(
        lambda d: (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]),
        [[x[:, i : i + rows : 2, j : j + columns : 2] for j in range(4)] for i in range(4)],
    )


def _spread(gradient: Array, counts: Sequence[int]) -> Grid:
    """A y A^T of the cotangents of every tile."""
    ends = [(0, 2 * n - size) for n, size in zip(counts, gradient.shape[1:3], strict=True)]
    y = jnp.pad(gradient, ((0, 0), *ends, (0, 0)))
    return _both_ways(
        lambda y: (y[0], y[0] + y[1], y[0] - y[1], -y[1]),
        [[y[:, i::2, j::2] for j in range(2)] for i in range(2)],
    )


def _product(a: Array, b: Array) -> Array:
    """`[C, D]`, summed over all tiles."""
    a, b = (array.reshape(-1, array.shape[-1]) for array in (a, b))
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _both_ways(transform: Callable[[Sequence[Array]], Sequence[Array]], grid: Grid) -> Grid:
    """A transform along the columns of a grid of arrays, then along its rows."""
    columns = [transform(column) for column in zip(*grid, strict=True)]
    return [list(transform(row)) for row in zip(*columns, strict=True)]
