"""Every function against Python's integers, on the device (under jit) and on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg.metrics import exact_integers

SIZES = [0, 1, 2**12 - 1, 2**24 - 1, 2**24, 2**31, 2**32 - 1, 2**36, 2**48, 2**53 + 1, 2**62]
numbers = st.one_of(st.sampled_from(SIZES), st.integers(0, 2**62), st.integers(0, 100))
pytestmark = pytest.mark.parametrize("where", ["device", "host"])


def limbs(values, where):
    split = [[v >> shift & 0xFFFFFF for shift in (0, 24, 48)] for v in values]
    array = np.array(split, np.uint32)
    return array if where == "host" else jnp.asarray(array)


def values(limbs):
    return [int(a) + (int(b) << 24) + (int(c) << 48) for a, b, c in np.asarray(limbs)]


@functools.cache
def run(function, where):
    """Compiled once for all drawn numbers."""
    return function if where == "host" else jax.jit(function)


def last_total(x):
    return exact_integers.total(x, -1)


def last_cumulative(x):
    return exact_integers.reversed_cumulative(x, -1)


def product_difference(a, b):
    """a1 b1 + a2 b2 against a3 b3, and the three products."""
    products = exact_integers.multiply(exact_integers.digits(a), exact_integers.digits(b))
    two = exact_integers.digits_total(products[:2], 0)
    negative, size = exact_integers.difference(two, products[2])
    return negative, exact_integers.scaled(size), products


check = settings(max_examples=60)
pairs = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=3)


@check
@given(pairs)
def test_add_and_subtract(where, pairs):
    a, b = ([pair[i] for pair in pairs] for i in range(2))
    total = run(exact_integers.add, where)(limbs(a, where), limbs(b, where))
    assert values(total) == [x + y for x, y in pairs]
    assert values(run(exact_integers.subtract, where)(total, limbs(b, where))) == a
    assert int(np.asarray(total)[:, :2].max()) < 2**24


@check
@given(st.lists(numbers, min_size=3, max_size=3))
def test_sums_along_an_axis(where, drawn):
    many = limbs(drawn, where)
    assert values(run(last_total, where)(many)[None]) == [sum(drawn)]
    if sum(drawn) < 2**63:
        back = run(last_cumulative, where)(many)
        assert values(back) == [sum(drawn[i:]) for i in range(3)]


def test_a_thousand_of_the_largest(where):
    many = limbs([2**53 - 1] * 1000, where)
    assert values(run(lambda x: exact_integers.total(x, 0), where)(many)[None]) == [
        1000 * (2**53 - 1)
    ]
    back = run(lambda x: exact_integers.reversed_cumulative(x, 0), where)(many)
    assert values(back) == [(1000 - i) * (2**53 - 1) for i in range(1000)]


@check
@given(pairs)
def test_products_and_their_differences(where, pairs):
    """Whole numbers until one rounding at the end."""
    a, b = (limbs([pair[i] for pair in pairs], where) for i in range(2))
    negative, size, products = run(product_difference, where)(a, b)
    exact = pairs[0][0] * pairs[0][1] + pairs[1][0] * pairs[1][1] - pairs[2][0] * pairs[2][1]
    assert bool(negative) == (exact < 0)
    np.testing.assert_allclose(size, abs(exact) / 2**64, rtol=1e-15 if where == "host" else 2e-7)
    found = [sum(int(d) << 12 * i for i, d in enumerate(row)) for row in np.asarray(products)]
    assert found == [x * y for x, y in pairs]


@check
@given(st.lists(numbers, min_size=3, max_size=3))
def test_floats_and_numpy(where, drawn):
    floats = run(exact_integers.to_float, where)(limbs(drawn, where))
    np.testing.assert_allclose(floats, drawn, rtol=2**-52 if where == "host" else 2**-23.9)
    assert exact_integers.to_numpy(limbs(drawn, where)).tolist() == drawn
    assert run(exact_integers.is_zero, where)(limbs(drawn, where)).tolist() == [
        x == 0 for x in drawn
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32])
def test_limbs_of_counts(where, dtype):
    counts = np.array([0, 1, np.iinfo(dtype).max], dtype)
    found = run(exact_integers.from_counts, where)(
        counts if where == "host" else jnp.asarray(counts)
    )
    assert values(found) == counts.tolist()


def test_limbs_of_long_counts(where):
    counts = np.array([0, 2**24, 2**63 - 1])
    with jax.enable_x64(True):
        found = run(exact_integers.from_counts, where)(counts)
        assert values(found) == counts.tolist()


def test_sums_over_images_and_devices_carry(where):
    """Counts of single images, 2**32 - 1 at most."""
    per_image = np.full((1000, 1), 2**32 - 1, np.uint32)
    found = jax.jit(exact_integers.sum_over_devices)(per_image)
    assert values(found) == [1000 * (2**32 - 1)]
    devices = jax.vmap(exact_integers.sum_over_devices, axis_name="data")
    assert values(devices(per_image.reshape(10, 100, 1))[3]) == [1000 * (2**32 - 1)]
