"""Dropout and stochastic depth: statistics, and masks that depend on neither devices nor strategy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.errors import InputError
from jaxseg.nn import Dropout, DropPath

LAYERS = {
    "dropout": Dropout(0.25),
    "channels": Dropout(0.25, broadcast_dims=(1, 2)),
    "drop path": DropPath(0.25),
}


def apply(layer, x, seed=0, train=True):
    return layer.apply({}, x, train=train, rngs={"dropout": jax.random.key(seed)})


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_in_evaluation_changes_nothing(name):
    x = jnp.arange(24.0).reshape(2, 2, 2, 3)
    assert LAYERS[name].apply({}, x, train=False) is x


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_keeps_the_expected_share(name):
    x = jnp.ones((256, 4, 4, 8))
    y = np.asarray(apply(LAYERS[name], x))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.08


def test_dropout_masks_are_constant_along_broadcast_dims():
    x = jnp.ones((16, 4, 4, 8))
    channels = np.asarray(apply(LAYERS["channels"], x)).reshape(16, 16, 8)
    assert (channels == channels[:, :1]).all()
    assert len(np.unique(channels[:, 0], axis=0)) > 8
    paths = np.asarray(apply(LAYERS["drop path"], x)).reshape(16, -1)
    assert (paths == paths[:, :1]).all()
    assert len(np.unique(paths[:, 0])) == 2


def test_dropout_depends_on_the_key():
    x = jnp.ones((8, 4, 4, 8))
    layer = LAYERS["dropout"]
    np.testing.assert_array_equal(apply(layer, x), apply(layer, x))
    assert (np.asarray(apply(layer, x)) != np.asarray(apply(layer, x, seed=1))).any()


def test_dropout_in_bfloat16_keeps_the_type():
    assert apply(LAYERS["dropout"], jnp.ones((2, 4), jnp.bfloat16)).dtype == jnp.bfloat16


def over_devices(strategy, layer, x):
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    split = PartitionSpec("data")
    if strategy == "pmap":
        parts = x.reshape(4, -1, *x.shape[1:])
        run = jax.pmap(lambda x: apply(layer, x), "data", devices=jax.devices()[:4])
        return run(parts).reshape(x.shape)
    if strategy == "shard_map":
        specs = {"in_specs": split, "out_specs": split}
        return jax.shard_map(lambda x: apply(layer, x), mesh=mesh, **specs)(x)
    sharded = jax.device_put(x, NamedSharding(mesh, split))
    return jax.jit(lambda x: apply(layer, x))(sharded)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("strategy", ["pmap", "shard_map", "jit"])
@pytest.mark.sample(3)
def test_dropout_over_devices_equals_one_device(strategy, name):
    x = np.random.default_rng(0).normal(size=(8, 2, 3, 4)).astype(np.float32)
    expected = apply(LAYERS[name], jnp.asarray(x))
    np.testing.assert_array_equal(over_devices(strategy, LAYERS[name], x), expected)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("layer", [Dropout, DropPath])
def test_dropout_rate_out_of_range_is_an_error(layer, rate):
    with pytest.raises(InputError, match="rate="):
        layer(rate)
