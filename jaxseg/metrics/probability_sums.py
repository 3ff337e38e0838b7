"""Sums of the probabilities of each class in each bin, exact over all classes of all pixels.

There are K times as many values as pixels, and this is where the time of an update would go. So the 24 bits of a value are
not summed byte by byte: the sums of a block of pixels fit into 32 bits, and those of blocks become limbs.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg.metrics import exact_integers
from jaxseg.metrics.histogram import bin_of
from jaxseg.typing import Array

_BLOCK = 128  # pixels; 255 probabilities of 1 are the most that 32 bits can add
_CHUNK = 1 << 16  # values whose bins and tables stay in a CPU's cache
_CHUNK_BLOCKS = 256  # whose 24 bits each 32 bits can add


def sums_by_bin(probabilities: Array, valid: Array, bins: int) -> exact_integers.Limbs:
    """The sum of the probabilities of each class in each bin, over the pixels that count and over devices.

    On CPUs and GPUs each value adds to its cell, as in `histogram`; on TPUs, which scatter one element at a time, each
    bin is a masked sum. Both are exact. On one CPU device chunks follow each other, so that nothing else of the size of
    the probabilities is kept.

    Args:
        probabilities: `[N, H, W, K]` in `[0, 1]`, rounded here to multiples of 2**-24.
        valid: `[N, H, W]` bool. The others may hold anything.
        bins: B.

    Returns:
        `[K, B, 3]` in multiples of 2**-24.

    >>> p = jnp.array([[[[0.25, 0.75], [0.5, 0.5]]]])
    >>> (exact_integers.to_float(sums_by_bin(p, jnp.ones((1, 1, 2), bool), 2)) / 2**24).tolist()
    [[0.25, 0.5], [0.0, 1.25]]
    """
    chunks = functools.partial(sums_in_chunks, bins=bins)
    adding = functools.partial(sums_by_image, tables=added, bins=bins)
    masking = functools.partial(sums_by_image, tables=masked, bins=bins)
    on_cpu = chunks if jax.device_count() == 1 else adding  # several devices: cut by their sharding
    sums = jax.lax.platform_dependent(probabilities, valid, cpu=on_cpu, tpu=masking, default=adding)
    return exact_integers.total_over_devices(sums)


def sums_in_chunks(probabilities: Array, valid: Array, *, bins: int) -> exact_integers.Limbs:
    """The sums of one device, `[K, B, 3]`, some blocks at a time."""
    classes, pixels = probabilities.shape[-1], valid.size
    blocks = max(min(_CHUNK // (_BLOCK * classes), -(-pixels // _BLOCK), _CHUNK_BLOCKS), 1)
    size = blocks * _BLOCK
    zero = jnp.zeros((classes, bins, 3), jnp.uint32)

    def add(sums: Array, probabilities: Array, valid: Array) -> Array:
        tables = exact_integers.from_counts(added(probabilities, valid, bins=bins))
        return exact_integers.add(sums, exact_integers.carry(tables.sum(0, dtype=jnp.uint32)))

    probabilities, valid = probabilities.reshape(pixels, classes), valid.reshape(pixels)
    whole = pixels // size

    def step(i: Array, sums: Array) -> Array:
        cuts = (jax.lax.dynamic_slice_in_dim(x, i * size, size) for x in (probabilities, valid))
        return add(sums, *cuts)

    sums = jax.lax.fori_loop(0, whole, step, zero) if whole else zero
    if pixels == whole * size:
        return sums
    return add(sums, probabilities[whole * size :], valid[whole * size :])


def sums_by_image(
    probabilities: Array, valid: Array, *, bins: int, tables: Callable[..., Array]
) -> exact_integers.Limbs:
    """The same, all blocks of all images at once, each image where it lies.

    Args:
        tables: `added` or `masked`.
    """
    images, classes = probabilities.shape[0], probabilities.shape[-1]
    pixels = valid.size // max(images, 1)
    probabilities = probabilities.reshape(images, pixels, classes)
    of_blocks = jax.vmap(functools.partial(tables, bins=bins))(
        probabilities, valid.reshape(images, pixels)
    )
    return exact_integers.total(exact_integers.total(exact_integers.from_counts(of_blocks), 1), 0)


def added(probabilities: Array, valid: Array, *, bins: int) -> Array:
    """`[blocks, K, B]` of `[pixels, K]`: each value adds to the cell of its block, class and bin."""
    pixels, classes = probabilities.shape
    blocks = -(-pixels // _BLOCK)
    cells = bin_of(probabilities, bins) + jnp.arange(classes, dtype=jnp.int32)[None] * bins
    cells += (jnp.arange(pixels, dtype=jnp.int32) // _BLOCK * (classes * bins))[:, None]
    tables = jnp.zeros(blocks * classes * bins, jnp.uint32)
    values = _multiples(probabilities, valid)
    tables = tables.at[cells.reshape(-1)].add(values.reshape(-1), mode="promise_in_bounds")
    return tables.reshape(blocks, classes, bins)


def masked(probabilities: Array, valid: Array, *, bins: int) -> Array:
    """The same as sums over the pixels of a block, one for each bin."""
    missing = -len(probabilities) % _BLOCK

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, missing), (0, 0)))
        return x.reshape(-1, _BLOCK, x.shape[-1])[..., None]

    inside = cut(bin_of(probabilities, bins)) == jnp.arange(bins, dtype=jnp.int32)[(None,) * 3]
    values = cut(_multiples(probabilities, valid))
    return jnp.where(inside, values, 0).sum(1, dtype=jnp.uint32)


def _multiples(probabilities: Array, valid: Array) -> Array:
    """The probabilities in multiples of 2**-24, 0 where they do not count."""
    rounded = jnp.round(probabilities * 2.0**exact_integers.BITS)
    return jnp.where(valid[:, None], rounded, 0).astype(jnp.uint32)
