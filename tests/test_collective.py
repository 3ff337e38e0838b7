"""Collectives reduce over the bound axis, and return their argument where no axis is bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg import collective


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def reduced(x):
    tree = {"x": x.sum()}
    return (
        collective.is_bound(),
        collective.psum(tree),
        collective.pmean(tree),
        collective.image_index(len(x)),
    )


def test_unbound_axis_returns_the_argument(mesh):
    x = jnp.arange(4.0)
    with jax.set_mesh(mesh):
        under_mesh = jax.jit(reduced)(x)
    sharded = jax.jit(reduced)(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    for bound, total, mean, index in (reduced(x), jax.jit(reduced)(x), under_mesh, sharded):
        assert not bound
        assert total["x"] == mean["x"] == 6
        assert index.tolist() == [0, 1, 2, 3]


def test_bound_axis_reduces_over_devices(mesh):
    x = jnp.arange(4.0)
    spec = PartitionSpec("data")

    def local(x):
        bound, total, mean, index = reduced(x)
        assert bound
        return total, mean, index

    specs = {"in_specs": spec, "out_specs": (PartitionSpec(), PartitionSpec(), spec)}
    total, mean, index = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=False, **specs))(x)
    assert total["x"] == 6
    assert mean["x"] == 3
    assert index.tolist() == [0, 1, 2, 3]
    mapped = jax.pmap(local, "data", devices=jax.devices()[:2])
    total, mean, index = mapped(x.reshape(2, 2))
    assert total["x"].tolist() == [6, 6]
    assert mean["x"].tolist() == [3, 3]
    assert index.tolist() == [[0, 1], [2, 3]]


def test_image_index_of_micro_batches_covers_the_batch():
    def local(part):
        with collective.micro_batch(part, 3):
            return collective.image_index(2)

    assert [local(part).tolist() for part in range(3)] == [[0, 3], [1, 4], [2, 5]]
    assert collective.image_index(2).tolist() == [0, 1]
    mapped = jax.pmap(local, "data", devices=jax.devices()[:2])
    assert mapped(jnp.array([1, 1])).tolist() == [[1, 4], [7, 10]]


def test_num_shards_is_that_of_a_mesh_of_batches(mesh):
    def num_shards(size, mesh):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return collective.num_shards(size)

    assert collective.num_shards(8) == 1
    assert (num_shards(8, mesh), num_shards(2, mesh), num_shards(3, mesh)) == (2, 2, 1)
    rows = jax.make_mesh((2, 2), ("data", "rows"), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
    assert num_shards(8, rows) == 1


def test_gather_keeps_the_order_of_devices(mesh):
    spec = PartitionSpec("data")

    def local(x):
        assert collective.num_shards(2) == 1  # a device sees its shard alone
        return collective.gather(x)

    x = jnp.arange(4.0).reshape(2, 2)
    specs = {"in_specs": spec, "out_specs": PartitionSpec()}
    gathered = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=False, **specs))(x)
    np.testing.assert_array_equal(gathered, x)
    np.testing.assert_array_equal(collective.gather(x), x)


def test_other_axes_are_ignored():
    sums = jax.vmap(lambda x: collective.psum(x), axis_name="batch")(jnp.arange(3.0))
    assert sums.tolist() == [0, 1, 2]


def test_pmean_of_gradients_is_the_global_gradient():
    """Every loss and step relies on this: the transpose of psum is psum."""

    def loss(w, x):
        return collective.psum((w * x).sum()) / collective.psum(x.shape[0])

    x = jnp.arange(1.0, 5.0)
    step = jax.vmap(
        lambda w, x: collective.pmean(jax.grad(loss)(w, x)), (None, 0), axis_name="data"
    )
    np.testing.assert_allclose(step(2.0, x.reshape(2, 2)), [x.mean()] * 2)
