import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.nn import BatchNorm, GroupNorm, LayerNorm
from jaxseg.nn.norm import channel_sums, normalize

STATISTICS = {
    "params": {"scale": np.float32([1.5, 0.5]), "bias": np.float32([0.1, -0.2])},
    "batch_stats": {"mean": np.float32([0.3, -1.0]), "var": np.float32([2.0, 0.5])},
}


def noise(*shape, loc=0.0, scale=1.0):
    return np.random.default_rng(0).normal(loc, scale, shape).astype(np.float32)


def train(x, norm=None):
    y, updated = (norm or BatchNorm()).apply(STATISTICS, x, train=True, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def expected(x, mean, var):
    params = STATISTICS["params"]
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def test_evaluation_uses_the_running_statistics():
    x = noise(2, 3, 4, 2)
    y = BatchNorm().apply(STATISTICS, x, train=False)
    np.testing.assert_allclose(y, expected(x, **STATISTICS["batch_stats"]), rtol=0, atol=1e-6)


def test_training_uses_the_batch_and_moves_the_running_statistics():
    x = noise(2, 3, 4, 2)
    y, moved = train(x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, expected(x, mean, var), rtol=0, atol=1e-5)
    old = STATISTICS["batch_stats"]
    np.testing.assert_allclose(moved["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        moved["var"], 0.9 * old["var"] + 0.1 * var * 24 / 23, rtol=0, atol=1e-6
    )


def test_one_value_per_channel_gives_the_bias():
    y, moved = train(noise(1, 1, 1, 2))
    np.testing.assert_array_equal(y.ravel(), STATISTICS["params"]["bias"])
    assert np.isfinite(moved["var"]).all()
    gradient = jax.grad(lambda x: train(x)[0].sum())(noise(1, 1, 1, 2))
    assert np.isfinite(gradient).all()


def test_a_large_mean_does_not_drown_the_variance():
    x = noise(4, 8, 8, 2, loc=1000.0)
    y, _ = train(x)
    exact = x.astype(np.float64)
    moments = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    np.testing.assert_allclose(y, expected(exact, *moments), rtol=0, atol=3e-3)


def test_bfloat16_is_normalised_in_float32():
    x = noise(2, 16, 16, 2, loc=5.0)
    y, moved = train(jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert moved["mean"].dtype == jnp.float32
    np.testing.assert_allclose(moved["mean"], train(x)[1]["mean"], rtol=0, atol=1e-3)
    assert train(x, BatchNorm(dtype=jnp.bfloat16))[0].dtype == jnp.bfloat16


def test_float64_is_normalised_in_float64():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(1000, 1, (2, 4, 4, 2))
        double = jax.tree.map(np.float64, STATISTICS)
        norm = BatchNorm(param_dtype=jnp.float64)
        y, _ = norm.apply(double, x, train=True, mutable=["batch_stats"])
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(
            y, expected(x, x.mean((0, 1, 2)), x.var((0, 1, 2))), rtol=0, atol=1e-9
        )


def over_devices(strategy, x):
    """`train` on four devices, a part of `x` on each."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    split, whole = PartitionSpec("data"), PartitionSpec()
    if strategy == "pmap":
        y, moved = jax.pmap(train, "data", devices=jax.devices()[:4])(
            x.reshape(4, -1, *x.shape[1:])
        )
        return y.reshape(x.shape), jax.tree.map(lambda s: s[3], moved)
    if strategy == "shard_map":
        specs = {"in_specs": split, "out_specs": (split, whole)}
        return jax.shard_map(train, mesh=mesh, check_vma=False, **specs)(x)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(train)(jax.device_put(x, NamedSharding(mesh, split)))


strategies = pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])


@strategies
def test_statistics_are_those_of_the_global_batch(strategy):
    x = noise(8, 2, 3, 2)
    y, moved = train(x)
    parts, moved_there = over_devices(strategy, x)
    np.testing.assert_allclose(parts, y, rtol=0, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(moved_there[name], moved[name], rtol=0, atol=1e-6)


@strategies
def test_parts_with_large_and_unlike_means_keep_the_variance(strategy):
    x = noise(8, 4, 4, 2, loc=1000.0) + np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    y, _ = over_devices(strategy, x)
    exact = x.astype(np.float64)
    moments = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    np.testing.assert_allclose(y, expected(exact, *moments), rtol=0, atol=3e-3)


def composed(x, scale, bias, relu):
    """The formula, whose gradient JAX derives."""
    wide = x.astype(scale.dtype)
    mean, var = wide.mean((0, 1, 2), keepdims=True), wide.var((0, 1, 2), keepdims=True)
    scale, bias = scale.reshape(1, 1, 1, -1), bias.reshape(1, 1, 1, -1)
    y = (wide - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias
    return (jax.nn.relu(y) if relu else y).astype(x.dtype)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 9, 7, 3), (4, 16, 16, 2), (3, 1, 1, 2), (1, 37, 5, 1)])
@pytest.mark.sample(3)
def test_its_own_gradient_is_the_formulas(shape, relu):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, cotangent = (jnp.asarray(rng.normal(2, 3, shape)) for _ in range(2))
        scale, bias = (jnp.asarray(rng.normal(size=shape[-1])) for _ in range(2))

        def run(form):
            return jax.jit(lambda *a: jax.vjp(form, *a)[1](cotangent))(x, scale, bias)

        ours = run(lambda x, s, b: normalize(x, s, b, 1e-5, jax.nn.relu if relu else None)[0])
        theirs = run(lambda x, s, b: composed(x, s, b, relu))
        assert float(jnp.abs(theirs[1]).max()) > 0.1 or shape[:3] == (3, 1, 1)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_its_own_gradient_in_bfloat16_is_that_of_float32_rounded():
    x = jnp.asarray(noise(2, 16, 9, 3, loc=2.0), jnp.bfloat16)
    cotangent = jnp.asarray(noise(2, 16, 9, 3), jnp.bfloat16)
    scale, bias = jnp.float32([1, 2, 3]), jnp.float32([0, 1, 0])

    def gradient(form, x, cotangent):
        return jax.vjp(form, x, scale, bias)[1](cotangent)

    def ours(x, scale, bias):
        return normalize(x, scale, bias, 1e-5, jax.nn.relu)[0].astype(x.dtype)

    got = gradient(ours, x, cotangent)
    exact = gradient(
        lambda x, s, b: composed(x, s, b, True),
        x.astype(jnp.float32),
        cotangent.astype(jnp.float32),
    )
    assert [leaf.dtype for leaf in got] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(got[0].astype(jnp.float32), exact[0], rtol=2**-8, atol=1e-6)
    for a, b in zip(got[1:], exact[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_relu_is_part_of_the_layer():
    x = noise(2, 3, 4, 2)
    for mode in ({"train": False}, {"train": True, "mutable": ["batch_stats"]}):
        plain = BatchNorm().apply(STATISTICS, x, **mode)
        rectified = BatchNorm().apply(STATISTICS, x, activation=jax.nn.relu, **mode)
        if mode["train"]:
            plain, rectified = plain[0], rectified[0]
        np.testing.assert_allclose(rectified, np.maximum(plain, 0), rtol=0, atol=1e-7)
        assert (np.asarray(plain) < 0).any()


@pytest.mark.parametrize("shape", [(2, 3), (1, 1, 1, 5), (3, 37, 53, 2), (2, 64, 64, 4)])
def test_sums_over_pixels_are_exact_to_a_few_roundings(shape):
    x = noise(*shape, loc=100.0)
    exact = x.astype(np.float64).reshape(-1, shape[-1]).sum(0)
    np.testing.assert_allclose(jax.jit(channel_sums)(x), exact, rtol=3e-7, atol=0)


def test_initialising_does_not_move_the_statistics():
    variables = BatchNorm().init(jax.random.key(0), noise(2, 3, 4, 2, loc=9.0), train=True)
    assert variables["batch_stats"]["mean"].tolist() == [0.0, 0.0]
    assert variables["batch_stats"]["var"].tolist() == [1.0, 1.0]


def test_group_norm_normalises_each_image_and_group():
    x = noise(2, 3, 4, 6, loc=50.0)
    params = {"scale": noise(6), "bias": noise(6)[::-1]}
    y = GroupNorm(3).apply({"params": params}, x)
    groups = x.reshape(2, 12, 3, 2).transpose(0, 2, 1, 3).reshape(2, 3, 24)
    mean, var = (np.repeat(f(groups, -1), 2, -1).reshape(2, 1, 1, 6) for f in (np.mean, np.var))
    expected = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)
    half = GroupNorm(3, dtype=jnp.bfloat16).apply({"params": params}, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_layer_norm_normalises_each_pixel():
    x = noise(2, 3, 4, 6, loc=1000.0)
    params = {"scale": noise(6), "bias": noise(6)[::-1]}
    y = LayerNorm(epsilon=1e-6).apply({"params": params}, x)
    exact = x.astype(np.float64)
    mean, var = exact.mean(-1, keepdims=True), exact.var(-1, keepdims=True)
    expected = (exact - mean) / np.sqrt(var + 1e-6) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-3)


def test_layer_norm_of_bfloat16_has_float32_moments():
    x = jnp.asarray(noise(4, 8, 64, loc=5.0), jnp.bfloat16)
    params = {"scale": jnp.ones(64), "bias": jnp.zeros(64)}
    y = LayerNorm().apply({"params": params}, x)
    expected = LayerNorm().apply({"params": params}, x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))
