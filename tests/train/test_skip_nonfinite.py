"""A NaN on one device keeps the state of all devices bit for bit, for every strategy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.parallel import Parallel


@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map"])
@pytest.mark.sample(1)
def test_nan_on_one_device_skips_the_update_on_all(conv_net, optimizer, strategy):
    """A pixel of one image is NaN; the gradients of the other seven devices are finite."""
    parallel = Parallel(strategy)
    model = conv_net()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 6, 5, 2)).astype(np.float32)
    batch = {"image": images, "label": rng.integers(0, 3, (8, 6, 5)).astype(np.uint8)}
    broken = {**batch, "image": images.copy()}
    broken["image"][5, 0, 0, 0] = np.nan
    loss_fn = losses.make_loss_fn({"cross_entropy": 1.0})
    inner = train.make_train_step(model, optimizer, loss_fn, ema_decay=0.9)
    step = parallel.compile(train.skip_nonfinite(inner), donate=())
    variables = jax.jit(model.init)(jax.random.key(0), images)
    state = parallel.replicate(train.create_state(variables, optimizer, ema=True))
    key = parallel.replicate(jax.random.key(1))
    before, _ = step(state, parallel.shard(batch), key)
    after, logs = step(before, parallel.shard(broken), key)
    assert (int(after.step), int(logs["skipped"]), int(logs["skipped_in_row"])) == (2, 1, 1)
    for name in ("params", "batch_stats", "opt_state", "ema"):
        chex.assert_trees_all_equal(getattr(after, name), getattr(before, name))
    for leaf in jax.tree.leaves(after):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 8
        assert all(np.array_equal(shard, shards[0]) for shard in shards)
    again, logs = step(after, parallel.shard(batch), key)
    assert (int(logs["skipped"]), int(logs["skipped_in_row"])) == (1, 0)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), again.params, before.params)
    assert all(jax.tree.leaves(changed))


def test_check_is_compiled_once():
    """It is not repeated in the update of each parameter, which would dominate the compilation of U-Net's step."""
    optimizer, count = optax.sgd(0.1), 24
    params = {f"w{i}": jnp.ones((8, i + 1)) for i in range(count)}

    def step(state, batch, key):
        updates, opt_state = optimizer.update(state.params, state.opt_state)
        params = optax.apply_updates(state.params, updates)
        logs = {"loss": batch, "gradient_norm": optax.tree.norm(updates)}
        return state.replace(params=params, opt_state=opt_state), logs

    state = train.create_state({"params": params}, optimizer)
    step = jax.jit(train.skip_nonfinite(step), donate_argnums=0)
    program = step.lower(state, jnp.float32(1), jax.random.key(0)).compile().as_text()
    assert (
        program.count("is-finite(") == 3
    )  # loss, gradient norm, and sum of squares of all parameters


def test_update_is_a_branch_on_cpus_alone():
    state = train.create_state(
        {"params": {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}}, optax.sgd(0.1)
    )

    def step(state, batch, key):
        params = jax.tree.map(lambda x: x * batch, state.params)
        return state.replace(params=params), {"loss": batch, "gradient_norm": batch}

    traced = jax.jit(train.skip_nonfinite(step)).trace(state, jnp.float32(1), jax.random.key(0))
    for platform, selects in (("cpu", False), ("tpu", True), ("cuda", True)):
        lines = traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
        chosen = [line for line in lines if "stablehlo.select" in line and "2x3xf32" in line]
        assert bool(chosen) == selects, platform


@pytest.mark.parametrize("name", ["vector", "kernel", "statistics"])
def test_non_finite_array_keeps_the_state(name):
    """Loss and gradient are finite; vectors and kernels of every dtype are checked."""
    params = {"kernel": jnp.ones((2, 3)), "vector": jnp.ones(3), "half": jnp.ones(3, jnp.bfloat16)}
    variables = {"params": params, "batch_stats": {"statistics": jnp.ones(3)}}
    state = train.create_state(variables, optax.sgd(0.1))

    def step(state, broken, key):
        def change(path, x):
            return jnp.where(broken & (path[-1].key == name), jnp.nan, x * 2).astype(x.dtype)

        params, statistics = jax.tree.map_with_path(change, (state.params, state.batch_stats))
        logs = {"loss": jnp.float32(1), "gradient_norm": jnp.float32(1)}
        return state.replace(params=params, batch_stats=statistics), logs

    step, key = jax.jit(train.skip_nonfinite(step)), jax.random.key(0)
    good, _ = step(state, False, key)
    kept, logs = step(good, True, key)
    assert int(logs["skipped"]) == 1
    for tree in ("params", "batch_stats"):
        chex.assert_trees_all_equal(getattr(kept, tree), getattr(good, tree))
        chex.assert_trees_all_equal(
            getattr(good, tree), jax.tree.map(lambda x: x * 2, getattr(state, tree))
        )
