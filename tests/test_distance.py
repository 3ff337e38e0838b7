import functools

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import ndimage

from jaxseg.distance import distance_transform
from jaxseg.errors import InputError

transform = jax.jit(distance_transform, static_argnames="spacing")


def scipy_transform(seeds, spacing=(1.0, 1.0)):
    """Of one image; SciPy has no word for one without a seed."""
    if not seeds.any():
        return np.full(seeds.shape, np.inf)
    return ndimage.distance_transform_edt(~seeds, sampling=spacing)


def scipy_squares(seeds):
    """Squared distances of one image, integers: from the indices of the nearest seeds, so nothing was rounded."""
    nearest = ndimage.distance_transform_edt(~seeds, return_distances=False, return_indices=True)
    return ((np.indices(seeds.shape) - nearest).astype(np.int64) ** 2).sum(0)


def drawn(shape, share, seed=0):
    return np.random.default_rng(seed).random(shape) < share


def blobs(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, min(shape) / 8) > 0


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(64, 64), (37, 91), (1, 65), (65, 1), (1, 1), (3, 200)])
@pytest.mark.sample(3)
def test_is_scipys(shape, share):
    seeds = drawn(shape, share)
    seeds[-1, 0] = True
    np.testing.assert_allclose(transform(seeds), scipy_transform(seeds), rtol=2e-7)


@pytest.mark.parametrize("spacing", [(2.0, 1.0), (1.0, 2.0), (0.3, 0.3), (7, 0.01), (1e-9, 3e-9)])
@pytest.mark.sample(2)
def test_spacing_is_scipys_sampling(spacing):
    for seeds in (drawn((31, 45), 0.01), blobs((31, 45))):
        result = transform(seeds, spacing=spacing)
        np.testing.assert_allclose(result, scipy_transform(seeds, spacing), rtol=3e-7)


@pytest.mark.parametrize("row", [0, 20, 40])
@pytest.mark.parametrize("column", [0, 31, 62])
def test_one_seed_reaches_everywhere(row, column):
    seeds = np.zeros((41, 63), bool)
    seeds[row, column] = True
    rows, columns = np.indices(seeds.shape)
    expected = np.hypot(rows - row, columns - column)
    np.testing.assert_allclose(transform(seeds), expected, rtol=2e-7)


def test_every_image_is_by_itself():
    """Full, empty, sparse and dense ones in one batch, under two leading dimensions."""
    seeds = np.stack([drawn((20, 33), share, i) for i, share in enumerate([0, 1, 0, 0.01, 0.3, 0])])
    seeds[5, 19, 32] = True
    expected = np.stack([scipy_transform(image) for image in seeds])
    assert np.isinf(expected[[0, 2]]).all()
    result = transform(seeds.reshape(3, 2, 20, 33))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected.reshape(3, 2, 20, 33), rtol=2e-7)


def test_both_orders_of_images_agree():
    """One by one on a CPU, all at once elsewhere: each is run here."""
    from jaxseg.distance import _transform

    seeds = np.stack([drawn((20, 33), share) for share in (0, 0.01, 0.3, 1)])
    for spacing in ((1.0, 1.0), (0.4, 1.0)):
        together = jax.jit(functools.partial(_transform, spacing=spacing))(seeds)
        np.testing.assert_array_equal(together, transform(seeds, spacing=spacing))


@settings(max_examples=100)
@given(
    seeds=arrays.arrays(bool, (2, 9, 14)),
    spacing=st.sampled_from([(1.0, 1.0), (3.0, 1.0), (0.5, 2.5)]),
)
@pytest.mark.slow
def test_any_mask_is_scipys(seeds, spacing):
    expected = np.stack([scipy_transform(image, spacing) for image in seeds])
    np.testing.assert_allclose(transform(seeds, spacing=spacing), expected, rtol=3e-7)


@pytest.mark.parametrize("kind", ["corner", "sparse"])
@pytest.mark.slow
def test_squares_are_exact_past_what_float32_counts(kind):
    """At 2048x2048 squares pass 2**22; one more step of width 4200 passes 2**24, where float32 skips odd numbers."""
    if kind == "corner":
        seeds = np.zeros((16, 4200), bool)
        seeds[0, 0] = True
    else:
        seeds = drawn((2048, 2048), 2e-5)
    squares = scipy_squares(seeds)
    expected = np.sqrt(squares).astype(np.float32)
    result = np.asarray(transform(seeds))
    assert kind == "sparse" or squares.max() > 2**24
    np.testing.assert_allclose(result, expected, rtol=2e-7)
    counted = squares <= 2**24
    np.testing.assert_array_equal(result[counted], expected[counted])
    if kind == "corner":
        with jax.enable_x64(True):
            exact = np.asarray(transform(seeds))
        assert exact.dtype == np.float64
        np.testing.assert_allclose(exact, np.sqrt(squares), rtol=1e-15)


@pytest.mark.parametrize("shape", [(1, 40_000), (60_000, 1)])
@pytest.mark.slow
def test_images_too_long_for_int32_have_distances(shape):
    """Their squares, or a square and that of no seed, pass 2**31."""
    seeds = np.zeros(shape, bool)
    seeds[0, 0] = True
    np.testing.assert_allclose(transform(seeds).ravel(), np.arange(seeds.size), rtol=2e-7)


def test_vmap_is_a_leading_dimension():
    seeds = np.stack([drawn((12, 17), share) for share in (0, 0.02, 0.3, 1)]).reshape(2, 2, 12, 17)
    expected = transform(seeds)
    once = jax.vmap(distance_transform)
    np.testing.assert_array_equal(jax.jit(once)(seeds), expected)
    np.testing.assert_array_equal(jax.jit(jax.vmap(once, 1, 1))(seeds), expected)
    moved = jax.vmap(distance_transform, in_axes=2)(np.moveaxis(seeds[0], 0, 2))
    np.testing.assert_array_equal(moved, expected[0])


@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map", "scan"])
def test_divided_images_have_the_same_distances(strategy):
    """Also where the devices stop at different offsets."""
    seeds = np.stack([drawn((12, 40), share) for share in (0, 0.005, 0.3, 1)])
    expected = np.stack([scipy_transform(image) for image in seeds])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    divided = PartitionSpec("data")
    if strategy == "jit":
        sharding = NamedSharding(mesh, divided)
        run = jax.jit(distance_transform, in_shardings=sharding, out_shardings=sharding)
    elif strategy == "pmap":
        run = jax.pmap(distance_transform, "data", devices=jax.devices()[:4])
    elif strategy == "shard_map":
        run = jax.jit(
            jax.shard_map(distance_transform, mesh=mesh, in_specs=divided, out_specs=divided)
        )
    else:
        run = jax.jit(
            lambda seeds: jax.lax.scan(lambda c, x: (c, distance_transform(x)), 0, seeds)[1]
        )
    np.testing.assert_allclose(run(seeds), expected, rtol=2e-7)


def test_a_gradient_takes_distances_as_constant():
    weights = jnp.asarray(np.random.default_rng(0).random((2, 8, 9)), jnp.float32)
    distances = distance_transform(weights > 0.8)

    def weighted(weights):
        return (distance_transform(weights > 0.8) * weights).sum()

    for gradient in (jax.grad(weighted), jax.jit(jax.grad(jax.checkpoint(weighted)))):
        np.testing.assert_array_equal(gradient(weights), distances)
    np.testing.assert_array_equal(jax.vmap(jax.grad(weighted))(weights), distances)


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 4, 0)])
def test_nothing_has_no_distances(shape):
    assert transform(np.zeros(shape, bool)).shape == shape


def test_memory_is_that_of_the_pixels():
    """Not of pixels times offsets: a margin on both sides, and a few whole arrays."""
    seeds = jax.ShapeDtypeStruct((3, 256, 256), bool)
    analysis = jax.jit(distance_transform).lower(seeds).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 12 * 4 * 3 * 256 * 256


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"bool.*not int32 \(2, 2\)"):
        distance_transform(jnp.zeros((2, 2), jnp.int32))
    with pytest.raises(InputError, match=r"not bool \(3,\)"):
        distance_transform(jnp.zeros(3, bool))
    for spacing in ((1.0,), (0.0, 1.0), (1.0, -1.0), (np.nan, 1.0), (1.0, np.inf)):
        with pytest.raises(InputError, match="two positive lengths"):
            distance_transform(jnp.zeros((2, 2), bool), spacing=spacing)
