"""The global norm equals NumPy's in float64, in every form, and takes few kernels on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg.train.gradient_norm import clip_by_global_norm, global_norm, sum_of_squares

SHAPES = [(), (5,), (0,), (7, 1), (3, 3, 5, 11), (13, 17), (0, 4), (2, 3, 4)]  # 221 = 13 * 17


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    return {str(i): rng.normal(size=shape) for i, shape in enumerate(SHAPES)}


def expected(tree):
    return np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in tree.values()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_global_norm_equals_numpys(tree, dtype):
    tree = {name: jnp.asarray(leaf, dtype) for name, leaf in tree.items()}
    norm = jax.jit(global_norm)(tree)
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, expected(tree), rtol=1e-6)


def test_global_norm_of_mixed_dtypes_is_the_widest(tree):
    with jax.enable_x64(True):
        mixed = {**tree, "half": jnp.full((3, 3), 0.5, jnp.bfloat16), "single": np.float32(2)}
        norm = jax.jit(global_norm)(mixed)
        assert norm.dtype == jnp.float64
        np.testing.assert_allclose(norm, expected(mixed), rtol=1e-14)


def test_sum_of_squares_of_nothing_is_zero():
    assert float(sum_of_squares({})) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["0", "1", "4"])
def test_sum_of_squares_shows_non_finite_values(tree, name, value):
    """Values whose squares overflow as well."""
    tree = {key: np.asarray(leaf, np.float32) for key, leaf in tree.items()}
    tree[name] = np.array(tree[name])
    tree[name].flat[-1] = value
    assert not jnp.isfinite(jax.jit(sum_of_squares)(tree))


def test_sum_of_squares_is_a_product_on_cpus_alone(tree):
    """On a CPU no squares are written to memory, and no sum is compiled for each shape."""
    tree = {name: np.asarray(leaf, np.float32) for name, leaf in tree.items()}
    traced = jax.jit(sum_of_squares).trace(tree)
    for platform, products in (("cpu", 5), ("tpu", 0), ("cuda", 0)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.dot_general") == products, platform


def test_sum_of_squares_of_a_million_is_accurate():
    """Adding a million equal squares in sequence in float32 would lose digits."""
    x = jnp.full((1000, 1000), 1.1, jnp.float32)
    np.testing.assert_allclose(
        jax.jit(sum_of_squares)([x]), np.float64(np.float32(1.1)) ** 2 * 1e6, rtol=1e-6
    )


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_by_global_norm_equals_optax(tree, max_norm):
    gradient = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in tree.items()}
    assert 0.5 < float(global_norm(gradient)) < 100
    ours, theirs = clip_by_global_norm(max_norm), optax.clip_by_global_norm(max_norm)
    assert jax.tree.structure(ours.init(gradient)) == jax.tree.structure(theirs.init(gradient))
    clipped = [jax.jit(one.update)(gradient, one.init(gradient))[0] for one in (ours, theirs)]
    for name, leaf in gradient.items():
        np.testing.assert_allclose(clipped[0][name], clipped[1][name], rtol=1e-6)
        assert max_norm < 1 or np.array_equal(clipped[0][name], leaf)


def test_clipping_keeps_dtypes_and_nan():
    clip = clip_by_global_norm(1.0)
    gradient = {"half": jnp.ones((4, 4), jnp.bfloat16), "single": jnp.ones(3)}
    clipped, _ = clip.update(gradient, clip.init(gradient))
    assert {name: leaf.dtype.name for name, leaf in clipped.items()} == {
        "half": "bfloat16",
        "single": "float32",
    }
    gradient["single"] = jnp.array([1.0, jnp.nan, 1.0])
    clipped, _ = clip.update(gradient, clip.init(gradient))
    assert all(jnp.isnan(leaf.astype(jnp.float32)).all() for leaf in jax.tree.leaves(clipped))


def test_clipping_shares_the_norm_that_is_logged(tree):
    gradient = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in tree.items()}
    clip = clip_by_global_norm(1.0)

    def step(gradient):
        return clip.update(gradient, clip.init(gradient))[0], global_norm(gradient)

    programs = [jax.jit(fn).lower(gradient).compile().as_text() for fn in (step, global_norm)]
    for operation in (" dot(", " reduce("):
        counts = [text.count(operation) for text in programs]
        assert counts[0] == counts[1] > 0, operation
