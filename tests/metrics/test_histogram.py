import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import InputError
from jaxseg.metrics import histogram as module
from jaxseg.metrics.histogram import _parts, _product, _scatter, histogram

SHAPE = (3, 50, 70)


def drawn(size, seed=0, shape=SHAPE):
    """Cells, of which some are not counted, and weights."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, size + 1, shape).astype(np.int32),
        rng.integers(0, 256, shape).astype(np.uint32),
    )


def expected(cells, size, weights=None):
    """A row for each image."""
    return np.stack(
        [
            np.bincount(row.ravel(), None if w is None else w.ravel(), size + 1)[:size]
            for row, w in zip(
                cells, [None] * len(cells) if weights is None else weights, strict=True
            )
        ]
    ).astype(np.int64)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 4, 441, 1000])
def test_counts_are_numpys(size, weighted):
    cells, weights = drawn(size)
    weights = weights if weighted else None
    counts = jax.jit(functools.partial(histogram, size=size))(cells, weights=weights)
    assert counts.dtype == jnp.uint32
    np.testing.assert_array_equal(counts, expected(cells, size, weights).sum(0, keepdims=True))
    count = jax.jit(functools.partial(histogram, size=size, per_image=True))
    np.testing.assert_array_equal(count(cells, weights=weights), expected(cells, size, weights))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("each", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 7, 441])
@pytest.mark.sample(8)
def test_both_ways_of_counting_agree(size, each, weighted, monkeypatch):
    """Several blocks and a part of one. A product is what TPUs do."""
    monkeypatch.setattr(module, "_BLOCK", 1024)
    cells, weights = drawn(size)
    operands = (cells, weights) if weighted else (cells,)
    ways = (functools.partial(f, size=size, each=each) for f in (_scatter, _product))
    scatter, product = (np.asarray(jax.jit(way)(*operands)) for way in ways)
    np.testing.assert_array_equal(scatter, product)
    rows = expected(cells, size, weights if weighted else None)
    rows = [rows[i : i + each].sum(0) for i in range(0, len(rows), each)]
    np.testing.assert_array_equal(scatter, rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 9, 7), (1, 9, 7), (2, 200)])
def test_parts_of_a_batch_add_up(shape, weighted, monkeypatch):
    """What a CPU does with large batches."""
    monkeypatch.setattr(module, "_LARGE", 16)
    cells, weights = drawn(6, shape=shape)
    operands = (cells, weights) if weighted else (cells,)
    for each in (1, shape[0]):
        ways = (functools.partial(f, size=6, each=each) for f in (_scatter, _parts))
        scatter, parts = (np.asarray(jax.jit(way)(*operands)) for way in ways)
        np.testing.assert_array_equal(scatter, parts)
    text = jax.jit(functools.partial(_parts, size=6, each=shape[0])).lower(*operands).as_text()
    assert text.count("stablehlo.scatter") > 1


def test_nothing_to_count():
    assert histogram(jnp.zeros((0, 4, 4), jnp.int32), 3).sum() == 0
    assert histogram(jnp.zeros((2, 0, 4), jnp.int32), 3).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_that_32_bits_cannot_count_are_divided(weighted):
    def groups(*shape):
        cells = jax.ShapeDtypeStruct(shape, jnp.int32)
        weights = jax.ShapeDtypeStruct(shape, jnp.uint32) if weighted else None
        count = functools.partial(histogram, size=10)
        return jax.eval_shape(count, cells, weights=weights).shape[0]

    limit = 24 if weighted else 32
    assert groups(8, 2 ** (limit - 4)) == 1
    assert groups(2, 2 ** (limit - 1)) == (1 if weighted else 2)
    assert groups(9, 2 ** (limit - 2)) == 3
    with pytest.raises(InputError, match="cut it"):
        groups(1, 2**limit + 1)


def test_more_cells_than_an_index_reaches_are_refused():
    with pytest.raises(InputError, match="2,148 images of 1,000,000 cells"):
        jax.eval_shape(
            lambda cells: histogram(cells, 1_000_000, per_image=True),
            jax.ShapeDtypeStruct((2148, 4, 4), jnp.int32),
        )
