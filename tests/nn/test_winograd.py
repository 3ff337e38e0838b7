"""The kernel's gradient by Winograd's method is the plain one, and it is taken on CPUs alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxseg.nn import winograd
from jaxseg.nn.convolution import convolution

CHANNELS = winograd.LEAST_CHANNELS
NUMBERS = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
SAME = ((1, 1), (1, 1))


def convolve(form, x, kernel, padding=SAME):
    return form(x, kernel, (1, 1), padding, rhs_dilation=(1, 1), dimension_numbers=NUMBERS)


def arrays(dtype, size=(6, 5), features=CHANNELS):
    rng = np.random.default_rng(0)
    shapes = (2, *size, CHANNELS), (3, 3, CHANNELS, features)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((8, 6), SAME),
        ((5, 7), SAME),
        ((3, 3), SAME),
        ((6, 5), ((0, 0), (0, 0))),
        ((5, 6), ((2, 1), (0, 2))),
    ],
)
def test_equal_in_float64(size, padding):
    with jax.enable_x64(True):
        x, kernel = arrays(jnp.float64, size)

        def gradients(form):
            def value(x, kernel):
                return jnp.sin(convolve(form, x, kernel, padding)).sum()

            return jax.jit(jax.value_and_grad(value, (0, 1)))(x, kernel)

        ours, theirs = (gradients(form) for form in (convolution, lax.conv_general_dilated))
        assert float(jnp.abs(theirs[1][1]).max()) > 1
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_float32_rounds_as_the_plain_sum_does():
    x, kernel = arrays(jnp.float32, (16, 16))
    y, back = jax.vjp(lambda k: convolve(lax.conv_general_dilated, x, k), kernel)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.float64(array)) for array in (x, kernel, cotangent)]
        _, exact = jax.vjp(lambda k: convolve(lax.conv_general_dilated, wide[0], k), wide[1])
        exact = np.asarray(exact(wide[2])[0])
    plain = np.abs(back(cotangent)[0] - exact).max()
    ours = np.abs(winograd.kernel_gradient(x, cotangent, SAME) - exact).max()
    assert ours < 3 * plain < 1e-5 * np.abs(exact).max()


def lowered(platform, dtype=jnp.float32, features=CHANNELS):
    x, kernel = arrays(dtype, features=features)
    gradient = jax.jit(jax.grad(lambda k: convolve(convolution, x, k).sum()))
    return gradient.trace(kernel).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("platform", "products"), [("cpu", 16), ("tpu", 0), ("cuda", 0), ("rocm", 0)]
)
def test_taken_on_cpus_alone(platform, products):
    assert lowered(platform).count("stablehlo.dot_general") == products


def test_not_taken_for_bfloat16_or_few_channels():
    assert "stablehlo.dot_general" not in lowered("cpu", jnp.bfloat16)
    assert "stablehlo.dot_general" not in lowered("cpu", features=CHANNELS - 1)


def test_not_taken_where_a_mesh_cuts_maps():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert "stablehlo.dot_general" not in lowered("cpu")
