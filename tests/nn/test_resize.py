import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import ndimage

from jaxseg.nn import bilinear, nearest
from jaxseg.nn.resize import _bilinear_matrix
from jaxseg.parallel.cost import find_collectives

SIZES = [(1, 1), (1, 7), (5, 5), (6, 4), (13, 8)]


def noise(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def to_all_sizes(resize, x, **options):
    return jax.jit(lambda x: [resize(x, size, **options) for size in SIZES])(x)


@pytest.mark.parametrize("given", SIZES)
@pytest.mark.sample(3)
def test_bilinear_equals_scipy_in_both_conventions(given):
    x = noise(2, *given, 3)
    half_pixel = to_all_sizes(bilinear, x)
    corners = to_all_sizes(bilinear, x, align_corners=True)
    for size, by_half_pixel, by_corners in zip(SIZES, half_pixel, corners, strict=True):
        zoom = (1, size[0] / given[0], size[1] / given[1], 1)
        expected = ndimage.zoom(x, zoom, order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(by_half_pixel, expected, rtol=0, atol=1e-5)
        if 1 not in given and 1 not in size:  # scipy divides by zero there
            expected = ndimage.zoom(x, zoom, order=1, mode="nearest")
            np.testing.assert_allclose(by_corners, expected, rtol=0, atol=1e-5)


def test_aligned_corners_stay_where_they_are():
    x = noise(1, 5, 7, 2)
    y = np.asarray(bilinear(x, (12, 3), align_corners=True))
    np.testing.assert_allclose(y[:, ::11, ::2], x[:, ::4, ::6], rtol=0, atol=1e-6)
    y = bilinear(x, (1, 1), align_corners=True)
    np.testing.assert_allclose(y, x[:, :1, :1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", SIZES)
def test_nearest_takes_the_pixel_at_the_floor_of_the_ratio(given):
    x = noise(2, *given, 3)
    for size, y in zip(SIZES, to_all_sizes(nearest, x), strict=True):
        rows = [i * given[0] // size[0] for i in range(size[0])]
        columns = [i * given[1] // size[1] for i in range(size[1])]
        np.testing.assert_array_equal(y, x[:, rows][:, :, columns])


@pytest.mark.parametrize("resize", [nearest, bilinear])
def test_every_output_pixel_has_weight_one(resize):
    for size in [(3, 2), (9, 10)]:
        gradient = jax.jit(jax.grad(lambda x, size=size: resize(x, size).sum()))(noise(1, 4, 5, 1))
        np.testing.assert_allclose(gradient.sum(), size[0] * size[1], rtol=1e-6)
        assert resize(jnp.full((1, 4, 5, 1), 7.0), size).min() == pytest.approx(7.0)


def test_the_gradient_of_nearest_sums_over_the_copies():
    gradient = jax.grad(lambda x: (nearest(x, (5, 1)) * jnp.arange(5.0).reshape(1, 5, 1, 1)).sum())
    assert gradient(jnp.zeros((1, 3, 1, 1))).ravel().tolist() == [0 + 1, 2 + 3, 4]
    assert gradient(jnp.zeros((1, 4, 1, 1))).ravel().tolist() == [0 + 1, 2, 3, 4]


def test_types_are_kept():
    x = noise(1, 4, 5, 2)
    for resize in (nearest, bilinear):
        half = resize(jnp.asarray(x, jnp.bfloat16), (7, 3))
        assert half.dtype == jnp.bfloat16
        np.testing.assert_allclose(half.astype(jnp.float32), resize(x, (7, 3)), rtol=0, atol=0.02)
    assert nearest(np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1), (4, 6)).dtype == jnp.uint8
    with jax.enable_x64(True):
        double = bilinear(noise(1, 4, 5, 2, dtype=np.float64), (8, 9))
        assert double.dtype == jnp.float64


def test_the_same_size_costs_nothing():
    x = jnp.ones((1, 4, 5, 2))
    for resize in (nearest, bilinear):
        assert str(jax.make_jaxpr(lambda x, resize=resize: resize(x, (4, 5)))(x)).count("\n") == 0


@pytest.mark.parametrize("factors", [(2, 2), (3, 4), (2, 1), (5, 8)])
@pytest.mark.parametrize("given", [(1, 1), (2, 5), (7, 3)])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.sample(3)
def test_whole_factors_are_the_matrix_forward_and_backward(given, factors, align_corners):
    with jax.enable_x64(True):
        x = noise(2, *given, 3, dtype=np.float64)
        size = tuple(n * f for n, f in zip(given, factors, strict=True))
        cotangent = noise(2, *size, 3, dtype=np.float64)
        rows, columns = (
            _bilinear_matrix(n, s, align_corners) for n, s in zip(given, size, strict=True)
        )
        y, back = jax.vjp(lambda x: bilinear(x, size, align_corners=align_corners), x)
        np.testing.assert_allclose(y, np.einsum("oh,pw,nhwc->nopc", rows, columns, x), atol=1e-12)
        (gradient,) = back(cotangent)
        expected = np.einsum("oh,pw,nopc->nhwc", rows, columns, cotangent)
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


@pytest.fixture
def bands():
    """Four devices, each with a band of rows."""
    mesh = jax.make_mesh((1, 4), ("data", "rows"), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield mesh


def test_other_platforms_have_the_matrix():
    x = noise(1, 4, 4, 2)
    double = jax.jit(jax.value_and_grad(lambda x: bilinear(x, (8, 8)).sum()))
    assert "dot_general" not in double.lower(x).as_text()
    assert "dot_general" in double.trace(x).lower(lowering_platforms=("tpu",)).as_text()


def test_bands_have_it_along_columns_alone(bands):
    x = noise(1, 4, 4, 2)
    rows, columns = (
        jax.jit(jax.value_and_grad(lambda x, size=size: bilinear(x, size).sum()))
        for size in ((8, 4), (4, 8))
    )
    assert "dot_general" not in rows.trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "dot_general" in columns.lower(x).as_text()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bands_ask_their_neighbours_for_a_row(bands, factor, align_corners):
    x = noise(2, 16, 6, 3)

    def grown(x):
        size = (factor * x.shape[1], factor * x.shape[2])
        return bilinear(x, size, align_corners=align_corners)

    def both(x, cotangent):
        y, back = jax.vjp(grown, x)
        return y, back(cotangent)[0]

    cut = NamedSharding(bands, PartitionSpec("data", "rows"))
    cotangent = noise(*grown(x).shape)
    step = jax.jit(both, in_shardings=(cut, cut), out_shardings=(cut, cut))
    exchanges = find_collectives(step.lower(x, cotangent).compile().as_text())
    assert {each.kind for each in exchanges} == {"collective-permute"}
    assert len(exchanges) == 4  # up and down, forward and backward
    assert max(each.bytes for each in exchanges) <= 4 * 2 * 6 * 3 * factor
