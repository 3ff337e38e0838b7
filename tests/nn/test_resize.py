import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg.nn import bilinear, nearest

SIZES = [(1, 1), (1, 7), (5, 5), (6, 4), (13, 8)]


def noise(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def to_all_sizes(resize, x, **options):
    return jax.jit(lambda x: [resize(x, size, **options) for size in SIZES])(x)


@pytest.mark.parametrize("given", SIZES)
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
