"""The norm of a tree: NumPy's in float64, in every form, with few kernels on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.train.norm import global_norm, square_sum

SHAPES = [(), (5,), (0,), (7, 1), (3, 3, 5, 11), (13, 17), (0, 4), (2, 3, 4)]  # 221 = 13 * 17


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    return {str(i): rng.normal(size=shape) for i, shape in enumerate(SHAPES)}


def expected(tree):
    return np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in tree.values()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_numpys(tree, dtype):
    tree = {name: jnp.asarray(leaf, dtype) for name, leaf in tree.items()}
    norm = jax.jit(global_norm)(tree)
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, expected(tree), rtol=1e-6)


def test_types_may_be_mixed(tree):
    with jax.enable_x64(True):
        mixed = {**tree, "half": jnp.full((3, 3), 0.5, jnp.bfloat16), "single": np.float32(2)}
        norm = jax.jit(global_norm)(mixed)
        assert norm.dtype == jnp.float64
        np.testing.assert_allclose(norm, expected(mixed), rtol=1e-14)


def test_nothing_has_no_length():
    assert float(square_sum({})) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["0", "1", "4"])
def test_what_is_not_finite_shows(tree, name, value):
    """So do numbers whose squares are not."""
    tree = {key: np.asarray(leaf, np.float32) for key, leaf in tree.items()}
    tree[name] = np.array(tree[name])
    tree[name].flat[-1] = value
    assert not jnp.isfinite(jax.jit(square_sum)(tree))


def test_a_cpu_multiplies_and_others_add_up(tree):
    """On a CPU squares are never written to memory, and no sum is compiled for each shape."""
    tree = {name: np.asarray(leaf, np.float32) for name, leaf in tree.items()}
    traced = jax.jit(square_sum).trace(tree)
    for platform, products in (("cpu", 5), ("tpu", 0), ("cuda", 0)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.dot_general") == products, platform


def test_a_sum_of_many_loses_little():
    """A million squares of one: adding them one after the other in float32 would lose digits."""
    x = jnp.full((1000, 1000), 1.1, jnp.float32)
    np.testing.assert_allclose(
        jax.jit(square_sum)([x]), np.float64(np.float32(1.1)) ** 2 * 1e6, rtol=1e-6
    )
