import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg import collective


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def several(x):
    tree = {"x": x.sum()}
    key = jax.random.key_data(collective.fold_in_device(jax.random.key(0)))
    return collective.is_bound(), collective.psum(tree), collective.pmean(tree), key


def test_is_the_identity_where_nothing_is_bound(mesh):
    x = jnp.arange(4.0)
    key = jax.random.key_data(jax.random.key(0))
    with jax.set_mesh(mesh):
        under_mesh = jax.jit(several)(x)
    sharded = jax.jit(several)(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    for bound, total, mean, folded in (several(x), jax.jit(several)(x), under_mesh, sharded):
        assert not bound
        assert total["x"] == mean["x"] == 6
        np.testing.assert_array_equal(folded, key)


def test_sums_and_means_over_devices_where_the_axis_is_bound(mesh):
    x = jnp.arange(4.0)
    spec = PartitionSpec("data")

    def local(x):
        bound, total, mean, key = several(x)
        assert bound
        return total, mean, key[None]

    specs = {"in_specs": spec, "out_specs": (PartitionSpec(), PartitionSpec(), spec)}
    total, mean, keys = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=False, **specs))(x)
    assert total["x"] == 6
    assert mean["x"] == 3
    assert keys[0].tolist() != keys[1].tolist()
    mapped = jax.pmap(local, "data", devices=jax.devices()[:2])
    total, mean, keys = mapped(x.reshape(2, 2))
    assert total["x"].tolist() == [6, 6]
    assert mean["x"].tolist() == [3, 3]
    assert keys[0].tolist() != keys[1].tolist()


def test_parts_are_known_where_the_mesh_cuts_the_batch_alone(mesh):
    def parts(count, mesh):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return collective.parts(count)

    assert collective.parts(8) == 1
    assert (parts(8, mesh), parts(2, mesh), parts(3, mesh)) == (2, 2, 1)
    rows = jax.make_mesh((2, 2), ("data", "rows"), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
    assert parts(8, rows) == 1


def test_parts_are_gathered_in_their_order(mesh):
    spec = PartitionSpec("data")

    def local(x):
        assert collective.parts(2) == 1  # a device sees its own
        return collective.gather(x)

    x = jnp.arange(4.0).reshape(2, 2)
    specs = {"in_specs": spec, "out_specs": PartitionSpec()}
    gathered = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=False, **specs))(x)
    np.testing.assert_array_equal(gathered, x)
    np.testing.assert_array_equal(collective.gather(x), x)


def test_other_axes_are_none_of_its_business():
    sums = jax.vmap(lambda x: collective.psum(x), axis_name="batch")(jnp.arange(3.0))
    assert sums.tolist() == [0, 1, 2]


def test_gradients_of_a_global_ratio_become_global_by_pmean():
    """The rule that every loss and step here rests on: psum's transpose is psum."""

    def loss(w, x):
        return collective.psum((w * x).sum()) / collective.psum(x.shape[0])

    x = jnp.arange(1.0, 5.0)
    step = jax.vmap(
        lambda w, x: collective.pmean(jax.grad(loss)(w, x)), (None, 0), axis_name="data"
    )
    np.testing.assert_allclose(step(2.0, x.reshape(2, 2)), [x.mean()] * 2)
