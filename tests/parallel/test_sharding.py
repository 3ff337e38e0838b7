"""Spatial shards and fully sharded states give the numbers of one device, in a fraction of its memory."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import train
from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm
from jaxseg.parallel.sharding import by_prefix, fully_sharded, replicated
from jaxseg.parallel.strategy import Parallel
from jaxseg.tasks import Semantic
from jaxseg.typing import Output

K = 3


def trained(parallel, model, variables, loss_fn, batch, steps=3):
    """Returns the state after a few steps, the last logs and the totals of an evaluation, on the devices."""
    optimizer = train.adamw(1e-2, weight_decay=0.1, clip_norm=0.5)
    state = parallel.replicate(train.create_state(variables, optimizer, ema=True))
    step = parallel.compile(train.make_train_step(model, optimizer, loss_fn, ema_decay=0.5))
    evaluate = parallel.compile(train.make_eval_step(model, Semantic(3), loss_fn), donate=(2,))
    for _ in range(steps):
        state, logs = step(state, parallel.shard(batch), jax.random.key(1))
    totals = parallel.replicate(Semantic(3).zero())
    totals, _ = evaluate(state, parallel.shard(batch), totals)
    return state, logs, totals


def assert_equal(got, expected):
    chex.assert_trees_all_close(*jax.device_get((got, expected)), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def one_device(conv_net, loss_fn, batch):
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(jax.random.key(0), batch["image"])
        single = Parallel("jit", jax.devices()[:1])
        return model, variables, trained(single, model, variables, loss_fn, batch)


@pytest.mark.parametrize(
    ("devices", "spatial_shards", "rule"),
    [
        (8, 2, replicated),  # 6 rows
        (8, 4, fully_sharded(min_size=1)),  # 2 rows on three of four devices, none on the last
        (4, 1, fully_sharded(min_size=1)),
        pytest.param(4, 4, replicated, marks=pytest.mark.slow),
        pytest.param(6, 6, replicated, marks=pytest.mark.slow),
        pytest.param(8, 8, replicated, marks=pytest.mark.slow),
    ],
)
@pytest.mark.sample(1)
def test_sharded_training_equals_one_device(
    one_device, loss_fn, batch, devices, spatial_shards, rule
):
    model, variables, expected = one_device
    with jax.enable_x64(True):
        parallel = Parallel(
            "jit", jax.devices()[:devices], spatial_shards=spatial_shards, sharding_rule=rule
        )
        got = trained(parallel, model, variables, loss_fn, batch)
    assert_equal(got, expected)


@pytest.mark.slow
def test_fully_sharded_state_stays_sharded(conv_net, loss_fn, batch):
    batch = batch | {"image": batch["image"].astype(np.float32)}
    model = conv_net()
    variables = jax.jit(model.init)(jax.random.key(0), batch["image"])
    parallel = Parallel("jit", jax.devices()[:4], sharding_rule=fully_sharded(min_size=30))
    state, logs, totals = trained(parallel, model, variables, loss_fn, batch, steps=1)
    for tree in (state.params, state.opt_state[1][0].mu, state.opt_state[1][0].nu, state.ema):
        assert tree["conv"]["kernel"].shape == (3, 3, 2, 4)
        assert tree["conv"]["kernel"].addressable_shards[0].data.shape == (3, 3, 2, 1)
        assert tree["head"]["kernel"].sharding.is_fully_replicated  # 12 elements
    for leaf in jax.tree.leaves((logs, totals, state.batch_stats)):
        assert leaf.sharding.is_fully_replicated


def test_shard_splits_rows_where_they_are_divisible():
    parallel = Parallel("jit", jax.devices()[:4], spatial_shards=2)
    batch = {
        "image": np.zeros((4, 6, 5, 3), np.uint8),
        "label": np.zeros((4, 7, 5), np.uint8),
        "labels_of_image": np.zeros((4, 2), np.uint8),
    }
    sharded = parallel.shard(batch)
    parts = {name: array.addressable_shards[0].data.shape for name, array in sharded.items()}
    assert parts == {"image": (2, 3, 5, 3), "label": (2, 7, 5), "labels_of_image": (2, 2)}


class Tower(nn.Module):
    """Convolutions with norms, whose maps or, with a large width, kernels dominate the memory."""

    width: int = 8

    @nn.compact
    def __call__(self, images, train=False):
        x = images
        for _ in range(3):
            x = ConvNorm(self.width)(x, train=train)
        return Output(nn.Conv(K, (1, 1))(x))


def compiled_step(model, loss_fn, size, parallel, images=1):
    """Compiles a train step for shapes."""
    optimizer = train.adamw(1e-3)
    arrays = {
        "image": jax.ShapeDtypeStruct((images, *size, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((images, *size), jnp.uint8),
    }
    variables = jax.eval_shape(model.init, jax.random.key(0), arrays["image"])
    state = jax.eval_shape(lambda: train.create_state(_zeros(variables), optimizer))
    step = train.make_train_step(model, optimizer, loss_fn)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return parallel.lower(step, state, arrays, key).compile()


def _zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def memory(program, kind):
    """Returns bytes on one device."""
    return getattr(program.memory_analysis(), f"{kind}_size_in_bytes")


@pytest.mark.slow
def test_spatial_shards_divide_the_memory_of_an_image(loss_fn):
    devices = jax.devices()
    used = [
        memory(compiled_step(Tower(), loss_fn, (256, 32), parallel), "temp")
        for parallel in (
            Parallel("jit", devices[:1]),
            Parallel("jit", devices[:4], spatial_shards=4),
        )
    ]
    assert used[0] / used[1] > 3.5, used


@pytest.mark.slow
def test_fully_sharded_divides_the_memory_of_the_state(loss_fn):
    devices = jax.devices()[:4]
    used = [
        memory(compiled_step(Tower(64), loss_fn, (8, 8), parallel, images=4), "argument")
        for parallel in (
            Parallel("jit", devices),
            Parallel("jit", devices, sharding_rule=fully_sharded(min_size=1000)),
        )
    ]
    assert used[0] / used[1] > 3.7, used


def test_step_with_spatial_shards_is_traced_once():
    traces = []

    def step(state, batch, key):
        traces.append(key)
        return state + batch["image"].sum()

    parallel = Parallel(
        "jit", jax.devices()[:4], spatial_shards=2, sharding_rule=fully_sharded(min_size=1000)
    )
    step = parallel.compile(step)
    state = parallel.replicate(jnp.float32(0))
    for value in range(3):
        batch = {"image": np.full((2, 5, 2), value, np.float32)}
        state = step(state, parallel.shard(batch), jax.random.key(value))
    assert state == 20 * 3
    assert len(traces) == 1


@pytest.mark.slow
def test_unet_with_spatial_shards_equals_one_device(loss_fn):
    """Pooling, strides, nearest upsampling and skips; the shards divide the rows of no map of the network."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, (2, 72, 40)).astype(np.uint8)
    labels[0, 20:] = 255
    batch = {"image": rng.normal(size=(2, 72, 40, 3)), "label": labels}
    with jax.enable_x64(True):
        wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        encoder = jaxseg.encoders.create("resnet18", **wide)
        model = jaxseg.create("unet", encoder=encoder, num_classes=K, **wide)
        variables = jax.jit(model.init)(jax.random.key(0), batch["image"])
        results = [
            trained(parallel, model, variables, loss_fn, batch, steps=2)
            for parallel in (
                Parallel("jit", jax.devices()[:1]),
                Parallel(
                    "jit",
                    jax.devices(),
                    spatial_shards=4,
                    sharding_rule=fully_sharded(min_size=1000),
                ),
            )
        ]
        assert_equal(*reversed(results))


def test_by_prefix_applies_the_first_match():
    rule = by_prefix({"params/encoder": replicated, "params": fully_sharded(min_size=1)})
    assert rule("params/encoder/kernel", (8, 8), 4) is None
    assert rule("params/encoder_2/kernel", (8, 4), 4) == 0
    assert rule("opt_state/0/mu/kernel", (8, 4), 4) is None


def test_invalid_arguments_raise_input_errors():
    devices = jax.devices()
    with pytest.raises(InputError, match="8 devices cannot form groups of 3"):
        Parallel("jit", devices, spatial_shards=3)
    with pytest.raises(InputError, match="need the strategy 'jit', not 'pmap'"):
        Parallel("pmap", devices, spatial_shards=2)
    with pytest.raises(InputError, match="need the strategy 'jit', not 'shard_map'"):
        Parallel("shard_map", devices, sharding_rule=fully_sharded(min_size=1000))
    with pytest.raises(InputError, match="batch of 3 cannot be divided over 2 groups of 4 devices"):
        Parallel("jit", devices, spatial_shards=4).shard({"image": np.ones((3, 8, 8, 3))})
    with pytest.raises(InputError, match="min_size is 0"):
        fully_sharded(min_size=0)
    with pytest.raises(InputError, match="pmap compiles when it is called"):
        Parallel("pmap", devices).lower(lambda state, batch: state, 0, {})
