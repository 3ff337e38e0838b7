"""The end of a residual block: the formula and its gradient, and code that grows with the blocks, not with their square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn.residual import add_relu


def plain(x, shortcut):
    return jax.nn.relu(x + shortcut)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_it_and_its_gradient_are_the_formulas(dtype):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, shortcut, cotangent = (jnp.asarray(rng.normal(size=(2, 3, 5, 4)), dtype) for _ in "abc")
        shortcut = shortcut.at[0].set(-x[0])  # zeros, where a ReLU lets nothing through

        def run(form):
            y, back = jax.vjp(form, x, shortcut)
            return y, *back(cotangent)

        ours, theirs = jax.jit(run, static_argnums=0)(add_relu), run(plain)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == jnp.dtype(dtype)
            np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))
        assert not np.asarray(ours[1][0], np.float64).any()


def blocks(form):
    """The sizes of a CPU's program, in instructions, for 4 and for 12 residual blocks with gradients."""

    def loss(weights, x):
        for weight in weights:
            x = form(jnp.tanh(x @ weight), x)
        return x.sum()

    sizes = []
    for count in (4, 12):
        weights = [jnp.ones((8, 8))] * count
        program = jax.jit(jax.grad(loss)).lower(weights, jnp.ones((32, 8))).compile()
        sizes.append(program.as_text().count(" = "))
    return sizes


def test_code_grows_with_the_number_of_blocks():
    few, many = blocks(add_relu)
    assert many < 3.2 * few
    few, many = blocks(plain)
    assert many > 3.5 * few  # what is avoided


def test_other_platforms_have_one_computation():
    traced = jax.jit(add_relu).trace(jnp.ones((2, 2)), jnp.ones((2, 2)))
    for platform, apart in (("cpu", True), ("tpu", False), ("cuda", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("inlineable" in text) == apart, platform
