"""Pooling with places and its inverse; tests/parity compares them with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxseg.errors import InputError
from jaxseg.nn import adaptive_avg_pool, max_pool, max_pool_with_indices, max_unpool
from jaxseg.nn.pool import _reduce_window


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)]
)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (3, 4)])
@pytest.mark.sample(4)
def test_places_are_where_the_maxima_are(window, stride, padding, size):
    x = noise(2, *size, 3)
    values, places = max_pool_with_indices(x, window, stride, padding)
    np.testing.assert_array_equal(values, max_pool(x, window, stride, padding))
    assert places.dtype == jnp.int32
    flat = x.reshape(2, -1, 3)
    found = np.take_along_axis(flat, np.asarray(places).reshape(2, -1, 3), axis=1)
    np.testing.assert_array_equal(found.reshape(values.shape), values)


WINDOWS = [(3, 2, 1), (2, 2, 0), (3, 1, 1), (2, 3, 1), (3, 2, 0), (5, 2, 2), (4, 3, 2)]


def pool_gradients(x, window, stride, padding, dtype):
    """Ours, which the tests' CPUs take, and XLA's, of a cotangent without equal numbers."""
    x = jnp.asarray(x, dtype)
    sizes = (window, stride, padding)
    shape = jax.eval_shape(lambda x: _reduce_window(x, *sizes), x).shape
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)
    return [
        np.asarray(jax.jit(lambda x, form=form: jax.vjp(form, x)[1](cotangent)[0])(x))
        for form in (lambda x: max_pool(x, *sizes), lambda x: _reduce_window(x, *sizes))
    ]


@pytest.mark.parametrize(("window", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 9)])
@pytest.mark.sample(7)
def test_its_own_gradient_is_that_of_xla(window, stride, padding, size):
    with jax.enable_x64(True):
        ours, theirs = pool_gradients(noise(2, *size, 3), window, stride, padding, jnp.float64)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
        assert np.abs(ours).max() > 0.5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_its_own_gradient_goes_to_the_first_of_equal_ones(dtype):
    x = np.random.default_rng(0).integers(0, 3, (2, 9, 12, 3)).astype(np.float32)
    ours, theirs = pool_gradients(x, 3, 2, 1, dtype)
    assert ours.dtype == dtype
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-6  # four numbers are added up
    np.testing.assert_allclose(*(np.float32(x) for x in (ours, theirs)), rtol=0, atol=tolerance)


def test_its_own_gradient_stays_inside_of_the_image():
    """XLA's is lost in the border; torch's and ours go to the first pixel inside, as the places do."""
    x = jnp.full((1, 4, 6, 2), -jnp.inf)
    gradient = jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())(x)
    _, where = max_pool_with_indices(x, 3, 2, 1)
    expected = np.zeros(x.shape).reshape(-1, 2)
    for place in np.asarray(where)[..., 0].ravel():
        expected[place] += 1
    np.testing.assert_array_equal(gradient.reshape(-1, 2), expected)


def test_not_a_number_takes_the_gradient_of_its_windows():
    x = noise(1, 6, 6, 1)
    x[0, 2, 3, 0] = np.nan
    gradient = jax.grad(lambda x: max_pool(x, 2, 2).sum())(x)
    assert gradient[0, 2:4, 2:4, 0].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert float(gradient.sum()) == 9


@pytest.mark.parametrize(
    ("platform", "scatters"), [("cpu", False), ("tpu", True), ("cuda", True), ("rocm", True)]
)
def test_its_own_gradient_is_for_cpus_alone(platform, scatters):
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, 1).sum()))
    lowered = gradient.trace(noise(1, 6, 6, 1)).lower(lowering_platforms=(platform,)).as_text()
    assert ("select_and_scatter" in lowered) is scatters


@pytest.mark.parametrize(("axes", "cut"), [(("data",), False), (("data", "rows"), True)])
def test_xla_has_its_way_where_a_mesh_cuts_maps(axes, cut):
    auto = (jax.sharding.AxisType.Auto,) * len(axes)
    mesh = jax.make_mesh((2,) * len(axes), axes, auto, devices=jax.devices()[: 2 ** len(axes)])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        gradient = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, 1).sum()))
        lowered = gradient.lower(noise(1, 6, 6, 1)).as_text()
    assert ("select_and_scatter" in lowered) == cut


def test_the_first_of_equal_maxima_wins():
    _, places = max_pool_with_indices(jnp.zeros((1, 4, 4, 1)), 3, 1)
    assert places[0, :, :, 0].tolist() == [[0, 1], [4, 5]]


def test_nothing_but_minus_infinity_has_a_place_inside():
    values, places = max_pool_with_indices(jnp.full((1, 2, 2, 1), -jnp.inf), 3, 2, 1)
    assert np.isneginf(values).all()
    assert places.ravel().tolist() == [0]


def test_unpooling_puts_the_maxima_back():
    x = noise(2, 6, 6, 3) + 10
    values, places = max_pool_with_indices(x, 2)
    back = max_unpool(values, (6, 6), indices=places)
    np.testing.assert_array_equal(max_pool(back, 2, 2), values)
    assert int((back != 0).sum()) == values.size
    np.testing.assert_array_equal(back[back != 0], x[np.asarray(back != 0)])


def test_gradients():
    x = noise(1, 5, 6, 2).astype(np.float64)

    def through(x):
        values, places = max_pool_with_indices(x, 2)
        return jnp.sin(max_unpool(values, (5, 6), indices=places))

    with jax.enable_x64(True):
        check_grads(through, (jnp.asarray(x),), order=1, modes=("rev",))


@pytest.mark.parametrize("arguments", [(2, 2, 2), (9, 1, 0)])
def test_windows_that_do_not_fit(arguments):
    with pytest.raises(InputError, match="half a window"):
        max_pool_with_indices(jnp.zeros((1, 4, 4, 1)), *arguments)


def test_shapes_that_do_not_fit():
    places = jnp.zeros((1, 2, 3, 1), jnp.int32)
    with pytest.raises(InputError, match="differ in shape"):
        max_unpool(jnp.zeros((1, 2, 2, 1)), (4, 4), indices=places)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 4), (9, 2)])
@pytest.mark.parametrize("given", [(7, 7), (14, 21), (5, 8), (1, 2)])
@pytest.mark.sample(5)
def test_adaptive_pooling_is_the_mean_of_windows_that_cover_the_map(given, size):
    x = noise(2, *given, 3)
    y = adaptive_avg_pool(x, size)
    assert y.shape == (2, *size, 3)
    for i in range(size[0]):
        for j in range(size[1]):
            rows, columns = (
                slice(k * length // n, int(np.ceil((k + 1) * length / n)))
                for k, length, n in zip((i, j), given, size, strict=True)
            )
            mean = x[:, rows, columns].mean((1, 2))
            np.testing.assert_allclose(y[:, i, j], mean, rtol=0, atol=1e-6)


def test_adaptive_pooling_sums_in_float32_and_keeps_the_type():
    x = jnp.full((1, 64, 64, 1), 1.0078125, jnp.bfloat16)
    y = adaptive_avg_pool(x, (1, 1))
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0]) == 1.0078125
