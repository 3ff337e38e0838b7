"""The end of a residual block equals its formula, and its code grows with the blocks, not with their square."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn import add_residual


def formula(x, shortcut, activation=nn.relu):
    return x + shortcut if activation is None else activation(x + shortcut)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("activation", [nn.relu, nn.silu, None])
@pytest.mark.sample(4)
def test_add_residual_and_its_gradient_equal_the_formula(dtype, activation):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, shortcut, cotangent = (jnp.asarray(rng.normal(size=(2, 3, 5, 4)), dtype) for _ in "abc")
        shortcut = shortcut.at[0].set(-x[0])  # zeros, where a ReLU has no gradient

        def run(form):
            y, back = jax.vjp(lambda *args: form(*args, activation), x, shortcut)
            return y, *back(cotangent)

        ours, theirs = jax.jit(run, static_argnums=0)(add_residual), run(formula)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == jnp.dtype(dtype)
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            if activation is nn.silu:
                np.testing.assert_allclose(a, b, rtol=2 * float(jnp.finfo(dtype).eps), atol=1e-9)
            else:
                np.testing.assert_array_equal(a, b)
        if activation is nn.relu:
            assert not np.asarray(ours[1][0], np.float64).any()


def code_sizes(form, activation):
    """Numbers of instructions in programs for a CPU of 4 and of 12 residual blocks with gradients."""

    def loss(weights, x):
        for weight in weights:
            x = form(jnp.tanh(x @ weight), x, activation)
        return x.sum()

    sizes = []
    for count in (4, 12):
        weights = [jnp.ones((8, 8))] * count
        program = jax.jit(jax.grad(loss)).lower(weights, jnp.ones((32, 8))).compile()
        sizes.append(program.as_text().count(" = "))
    return sizes


@pytest.mark.slow
def test_code_grows_with_the_number_of_blocks():
    for activation in (nn.relu, None):
        few, many = code_sizes(add_residual, activation)
        assert many < 3.2 * few
    few, many = code_sizes(formula, nn.relu)
    assert many > 3.5 * few  # what is avoided


def test_add_residual_on_other_platforms_is_one_computation():
    traced = jax.jit(add_residual).trace(jnp.ones((2, 2)), jnp.ones((2, 2)))
    for platform, separate in (("cpu", True), ("tpu", False), ("cuda", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("inlineable" in text) == separate, platform
