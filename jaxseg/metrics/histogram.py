"""Histograms of integers, the inner loop of every metric that counts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.metrics.predictions import widened
from jaxseg.typing import Array

_BLOCK = 1 << 14  # of what is multiplied at once
_PARTS = 8  # of a large batch on a CPU
_LARGE = 1 << 17  # elements of a part that is worth it


def histogram(
    cells: Array, size: int, *, per_image: bool = False, weights: Array | None = None
) -> Array:
    """Counts elements by cell.

    On CPUs and GPUs each element adds to its cell (1 to 2 ns a pixel on a CPU core, for any number of cells); on TPUs,
    which scatter one element at a time, one-hot matrices are multiplied. Both are exact. A batch that is sharded over
    devices is counted where it lies: only the cells are summed between them.

    Args:
        cells: `[N, ...]` int32, `0..size`; `size` stands for an element that is not counted.
        size: How many cells there are.
        per_image: Whether each image is counted for itself.
        weights: `[N, ...]` uint32, `0..255`: what an element adds to its cell; 1 by default.

    Returns:
        `[G, size]` uint32: a row for each image, or else for each group of as many images as 32 bits can count, which
        is one row for fewer than 2**32 elements (2**24 with weights).

    Raises:
        InputError: An image has more elements than 32 bits can count, or the result has 2**31 cells or more.

    >>> histogram(jnp.array([[0, 2, 2], [0, 0, 3]]), 3)
    Array([[3, 0, 2]], dtype=uint32)
    >>> histogram(jnp.array([[0, 2, 2], [0, 0, 3]]), 3, per_image=True).tolist()
    [[1, 0, 2], [2, 0, 0]]
    """
    images, elements = cells.shape[0], max(cells[0].size if cells.shape[0] else 1, 1)
    limit = (1 << 32) - 1 if weights is None else 1 << 24
    if elements > limit:
        raise InputError(f"an image has {elements:,} elements, which 32 bits cannot count: cut it")
    each = 1 if per_image else max(min(limit // elements, images), 1)
    groups = -(-images // each)
    if groups * size >= 1 << 31:
        raise InputError(
            f"{groups:,} images of {size:,} cells each are too many for one call: give fewer images"
        )
    parts, scatter, product = (
        functools.partial(way, size=size, each=each) for way in (_parts, _scatter, _product)
    )
    operands = (cells,) if weights is None else (cells, weights)
    on_cpu = parts if jax.device_count() == 1 else scatter  # several devices: cut by their sharding
    return jax.lax.platform_dependent(*operands, cpu=on_cpu, tpu=product, default=scatter)


def bin_of(probabilities: Array, bins: int) -> Array:
    r"""The bin of each probability: $\max \{ b : b / B \le p \}$, of `edges`, so that 1 lies in the last one.

    Args:
        probabilities: Any shape, floating. Below 0 counts as 0, above 1 as 1, and what is not a number as 0.
        bins: B.

    Returns:
        int32 of the same shape. Exact also where p lies on an edge.

    >>> bin_of(jnp.array([0.0, 0.3, 0.5, 1.0]), 4).tolist()
    [0, 1, 2, 3]
    """
    probabilities = widened(probabilities)
    probabilities = jnp.where(jnp.isnan(probabilities), 0, jnp.clip(probabilities, 0, 1))
    guess = jnp.minimum((probabilities * bins).astype(jnp.int32), bins - 1)
    if bins & (bins - 1) == 0:
        return guess  # a product with a power of two does not round; others may be one off
    lower = jnp.asarray(np.append(edges(bins), np.float32(np.inf))).astype(probabilities.dtype)
    guess -= (probabilities < lower[guess]).astype(jnp.int32)
    return guess + (probabilities >= lower[guess + 1]).astype(jnp.int32)


def edges(bins: int) -> np.ndarray:
    """`[B]` float32: where each of B bins of equal width in `[0, 1]` begins.

    >>> edges(4).tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    return (np.arange(bins) / bins).astype(np.float32)


def _scatter(cells: Array, weights: Array | None = None, *, size: int, each: int) -> Array:
    """Adds to the cell of each element; the cell behind the last one takes what is not counted."""
    groups = -(-cells.shape[0] // each)
    if groups > 1:
        group = jnp.arange(cells.shape[0], dtype=jnp.int32) // each * size
        group = group.reshape(-1, *[1] * (cells.ndim - 1))
        cells = jnp.where(cells == size, groups * size, cells + group)
    counts = jnp.zeros(groups * size + 1, jnp.uint32)
    counts = counts.at[cells].add(1 if weights is None else weights, mode="promise_in_bounds")
    return counts[:-1].reshape(groups, size)


def _parts(cells: Array, weights: Array | None = None, *, size: int, each: int) -> Array:
    """Scatters parts of a large batch, which XLA does on several cores of a CPU at once."""
    axis = 0 if cells.shape[0] > 1 else 1
    parts = min(_PARTS, cells.size // max(_LARGE, 4 * size), cells.shape[axis])
    if parts < 2 or each < cells.shape[0]:
        return _scatter(cells, weights, size=size, each=each)
    cuts = [cells.shape[axis] * i // parts for i in range(parts + 1)]
    operands = (cells,) if weights is None else (cells, weights)
    counts = [
        _scatter(
            *(jax.lax.slice_in_dim(x, start, end, axis=axis) for x in operands),
            size=size,
            each=each,
        )
        for start, end in itertools.pairwise(cuts)
    ]
    return jnp.stack(counts).sum(0, dtype=jnp.uint32)


def _product(cells: Array, weights: Array | None = None, *, size: int, each: int) -> Array:
    """Multiplies one-hot matrices of the two halves of a cell's number.

    Products of ones, zeros and weights are exact in bfloat16 and their sums in float32, below 2**24; blocks keep them
    there, and bound the memory.
    """
    images = cells.shape[0]
    width = max(round(size**0.5), 1)
    height = size // width + 1
    blocks = -(-max(cells.size // max(images, 1), 1) // _BLOCK)

    def cut(x: Array, fill: int) -> Array:
        x = x.reshape(images, -1)
        x = jnp.pad(x, ((0, 0), (0, blocks * _BLOCK - x.shape[1])), constant_values=fill)
        return x.reshape(images, blocks, _BLOCK).swapaxes(0, 1)

    def count(counts: Array, block: tuple[Array, ...]) -> tuple[Array, None]:
        rows = jax.nn.one_hot(block[0] // width, height, dtype=jnp.bfloat16)
        columns = jax.nn.one_hot(block[0] % width, width, dtype=jnp.bfloat16)
        if len(block) > 1:
            rows = rows * block[1].astype(jnp.bfloat16)[..., None]
        new = jnp.einsum("npk,npl->nkl", rows, columns, preferred_element_type=jnp.float32)
        return counts + new.astype(jnp.uint32), None

    operands = (cut(cells, size),) if weights is None else (cut(cells, size), cut(weights, 0))
    counts = jax.lax.scan(count, jnp.zeros((images, height, width), jnp.uint32), operands)[0]
    counts = counts.reshape(images, -1)[:, :size]
    groups = -(-images // each)
    counts = jnp.pad(counts, ((0, groups * each - images), (0, 0)))
    return counts.reshape(groups, each, size).sum(1, dtype=jnp.uint32)
