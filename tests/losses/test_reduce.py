import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxseg import collective
from jaxseg.losses import ratio_of_sums, weighted_mean


def test_weighted_mean_is_numpys_average():
    rng = np.random.default_rng(0)
    loss, weights = rng.normal(size=(3, 4)), rng.random((3, 4))
    got = weighted_mean(jnp.float32(loss), jnp.float32(weights))
    np.testing.assert_allclose(got, np.average(loss, weights=weights), rtol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_weight_zero_hides_what_is_not_finite(poison):
    weights = jnp.array([1.0, 0.0, 1.0])
    value, gradient = jax.value_and_grad(weighted_mean)(jnp.array([1.0, poison, 2.0]), weights)
    assert value == 1.5
    assert gradient.tolist() == [0.5, 0, 0.5]


def test_nothing_is_zero_with_a_zero_gradient():
    function = jax.value_and_grad(ratio_of_sums, argnums=(0, 1))
    value, gradients = function(jnp.array([1.0, 2.0]), jnp.zeros(2))
    assert value == 0
    assert not np.asarray(gradients).any()
    assert weighted_mean(jnp.zeros((0, 3)), jnp.zeros((0, 3))) == 0


@pytest.mark.parametrize("strategy", ["pmap", "shard_map"])
def test_devices_with_unequal_weights_share_one_mean(strategy):
    """The mean of the two devices' means would be 5.75, and the plain mean of gradients half of what it is."""
    loss, weights = jnp.array([2.0, 4.0, 10.0, 8.0]), jnp.array([1.0, 1.0, 0.0, 2.0])

    def step(scale, loss, weights):
        value, gradient = jax.value_and_grad(lambda s: weighted_mean(s * loss, weights))(scale)
        return value, collective.pmean(gradient)

    devices = jax.devices()[:2]
    if strategy == "pmap":
        halves = (x.reshape(2, 2) for x in (loss, weights))
        axes = {"in_axes": (None, 0, 0), "out_axes": None, "devices": devices}
        value, gradient = jax.pmap(step, "data", **axes)(jnp.float32(3), *halves)
    else:
        mesh = jax.make_mesh(
            (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
        )
        specs = (PartitionSpec(), PartitionSpec("data"), PartitionSpec("data"))
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
        )
        value, gradient = jax.jit(mapped)(jnp.float32(3), loss, weights)
    assert value == 3 * gradient == 3 * 5.5
