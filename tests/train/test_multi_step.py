"""Several steps on the device, as one program or in a loop, equal training on batches from the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import collective, data, train
from jaxseg.data.device.augment import random_cutmix, random_view
from jaxseg.parallel import cost_of
from jaxseg.parallel.strategy import Parallel
from jaxseg.tasks import Semantic
from jaxseg.train.multi_step import loop_steps, scan_steps

L, B, STEPS = 11, 4, 4
KEY = 3


@pytest.fixture(scope="module")
def dataset():
    """Eleven images, so that the third batch contains the end of an epoch and the beginning of the next."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (L, 9, 8)).astype(np.uint8)
    label[::2, :5] = 255
    image = rng.integers(0, 256, (L, 9, 8, 2), dtype=np.uint8)
    return data.DeviceDataset({"image": image, "label": label})


@pytest.fixture(scope="module")
def feed():
    view = random_view((6, 5), scale=(0.7, 1.5), rotate=20.0)
    return data.make_feed(view, [random_cutmix(0.7)])


@pytest.fixture(scope="module")
def sampler():
    return data.make_sampler(L, B)


@pytest.fixture(scope="module")
def start(conv_net, optimizer, loss_fn):
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 6, 5, 2)))
        step = train.make_train_step(
            model,
            optimizer,
            Semantic(3).with_counts(loss_fn),
            preprocess=lambda x: x.astype(jnp.float64) / 255,
        )
        return train.create_state(variables, optimizer), train.skip_nonfinite(step)


@pytest.fixture(scope="module")
def from_host(start, dataset, feed, sampler):
    """The batches, made separately from the steps, and the results of the steps, on one device."""
    state, step = start
    batches, rows = [], []
    with jax.enable_x64(True):
        parallel = Parallel("jit", jax.devices()[:1])
        state, step, make = parallel.replicate(state), parallel.compile(step), jax.jit(feed)
        drawn = sampler(jax.random.key(KEY), 0, STEPS)
        for index in range(STEPS):
            mine = {name: array[:, index] for name, array in drawn.items()}
            batch = jax.device_get(make(dataset, mine, jax.random.key(KEY)))
            state, logs = step(state, parallel.shard(batch), jax.random.key(KEY))
            batches.append(batch)
            rows.append(logs)
        return batches, jax.device_get(
            (state, jax.tree.map(lambda *leaves: np.stack(leaves), *rows))
        )


def filled(dataset, rows):
    """Returns the data set with added rows that must not be read, so that the devices divide it."""
    arrays = {
        name: np.concatenate([array, np.full((rows - L, *array.shape[1:]), 77, np.uint8)])
        for name, array in dataset.arrays.items()
    }
    return data.DeviceDataset(arrays, L, True)


def equal(got, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12), got, expected)


@pytest.mark.parametrize(
    ("form", "strategy", "is_sharded"),
    [
        (scan_steps, "jit", False),
        (loop_steps, "shard_map", True),
        pytest.param(loop_steps, "jit", True, marks=pytest.mark.slow),
        pytest.param(scan_steps, "jit", True, marks=pytest.mark.slow),
        pytest.param(loop_steps, "jit", False, marks=pytest.mark.slow),
        pytest.param(scan_steps, "pmap", True, marks=pytest.mark.slow),
        pytest.param(loop_steps, "pmap", False, marks=pytest.mark.slow),
        pytest.param(scan_steps, "shard_map", True, marks=pytest.mark.slow),
        pytest.param(scan_steps, "shard_map", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.sample(1)
def test_multi_step_equals_batches_from_the_host(
    start, dataset, feed, sampler, from_host, form, strategy, is_sharded
):
    state, step = start
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:4])
        run = form(step, feed, parallel)
        key = jax.random.key(KEY)
        rows = filled(dataset, 12) if is_sharded else dataset
        on_devices = parallel.put(rows, sharded=is_sharded)
        got = run(parallel.replicate(state), sampler(key, 0, STEPS), on_devices, key)
        for leaf in jax.tree.leaves(got):
            assert leaf.sharding.is_fully_replicated
            assert leaf.sharding.device_set == set(parallel.devices)
        equal(jax.device_get(got), from_host[1])


def test_reference_trains_and_augments(start, dataset, from_host):
    """Otherwise the equality above would prove nothing."""
    batches, (state, logs) = from_host
    for old, new in zip(
        jax.tree.leaves(start[0].params), jax.tree.leaves(state.params), strict=True
    ):
        assert np.abs(np.asarray(old) - new).max() > 1e-3
    assert logs["loss"].shape == (STEPS,)
    assert len(np.unique(logs["loss"])) == STEPS
    assert not logs["skipped_in_row"].any()
    counted = sum((batch["label"] != 255).sum() for batch in batches)
    assert logs["counts"].to_numpy().shape == (STEPS, 3, 3)
    assert logs["counts"].to_numpy().sum() == counted > 0
    pictures = np.concatenate([batch["image"] for batch in batches])
    assert len(np.unique(pictures, axis=0)) == STEPS * B


def test_skipped_updates_are_logged_for_each_step(start, dataset, sampler):
    """A batch with image 5 has a non-finite loss."""
    _, step = start
    drawn = sampler(jax.random.key(KEY), 0, STEPS)

    def feed(dataset, schedule, key):
        batch = dataset.gather(schedule["index"])
        broken = jnp.where((schedule["index"] == 5)[:, None, None, None], jnp.nan, jnp.float64(1))
        return {**batch, "image": batch["image"].astype(jnp.float64) * broken}

    with jax.enable_x64(True):
        parallel = Parallel("shard_map", jax.devices()[:2])
        key = jax.random.key(KEY)
        state, logs = scan_steps(step, feed, parallel)(
            parallel.replicate(start[0]), drawn, parallel.put(dataset), key
        )
    broken = (drawn["index"] == 5).any(0)
    assert 0 < broken.sum() < STEPS
    np.testing.assert_array_equal(logs["skipped_in_row"] > 0, broken)
    assert int(state.skipped[0]) == broken.sum()


def gathered(dataset, schedule, key):
    return dataset.gather(schedule["index"])


def log_images(state, batch, key):
    """A step that logs the images of its batch."""
    return state.replace(step=state.step + 1), {"seen": batch["image"][:, 0, 0, 0]}


def numbered(length):
    images = np.broadcast_to(
        np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 2, 2, 1)
    )
    return data.DeviceDataset({"image": images, "label": images[..., 0]})


def epochs_of(length, batch_size, epochs, *, stop=None):
    """Returns the images of each step of some epochs, of a run that is interrupted after `stop` steps if given."""
    parallel = Parallel("jit", jax.devices()[:1])
    sampler, key = data.make_sampler(length, batch_size), jax.random.key(1)
    steps = max(1, length // batch_size)
    run = loop_steps(log_images, gathered, parallel)
    epoch = train.make_epoch(run, sampler, steps=steps)
    state = train.create_state({"params": {}}, optax.identity())
    state, dataset = parallel.replicate(state), parallel.put(numbered(length))
    seen = []
    if stop:
        state, logs = run(state, sampler(key, 0, stop), dataset, key)
        seen.append(logs["seen"])
    while int(state.step) < epochs * steps:
        state, logs = epoch(state, dataset, key)
        seen.append(logs["seen"])
    return np.concatenate(seen)


@pytest.mark.parametrize(("length", "batch_size"), [(12, 4), (11, 4), (3, 4), (1, 2)])
def test_epoch_contains_every_image_once(length, batch_size):
    """Images that the batches of an epoch leave over begin the next."""
    stream = epochs_of(length, batch_size, 8).ravel()
    whole = stream[: len(stream) // length * length].reshape(-1, length)
    assert len(whole) >= 2
    for epoch in whole:
        assert sorted(epoch) == list(range(length))
    assert length < 4 or len(np.unique(whole, axis=0)) == len(whole)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_interrupted_epoch_continues_with_the_same_batches(stop):
    np.testing.assert_array_equal(epochs_of(11, 4, 4, stop=stop), epochs_of(11, 4, 4))


@pytest.mark.parametrize("strategy", ["jit", "shard_map"])
def test_sharded_dataset_communicates_only_the_batch(dataset, sampler, strategy):
    """And each device stores only its shard."""
    parallel, key = Parallel(strategy, jax.devices()[:4]), jax.random.key(KEY)
    on_devices = parallel.put(filled(dataset, 12), sharded=True)
    for array in on_devices.arrays.values():
        assert [len(shard.data) for shard in array.addressable_shards] == [3, 3, 3, 3]
    mine = {name: array[:, 0] for name, array in sampler(key, 0, 1).items()}

    def brightness(state, schedule, dataset):
        image = dataset.gather(schedule["index"])["image"]
        return state + collective.psum(image.astype(jnp.float32).sum())

    fn = parallel.compile(brightness, sharded=(1, 2))
    arguments = parallel.replicate(jnp.float32(0)), parallel.shard(mine), on_devices
    found = float(fn(*arguments))
    assert found == dataset.arrays["image"][mine["index"]].sum(dtype=np.float64)
    compiled = parallel._make_jit(brightness, arguments, (), (1, 2)).lower(*arguments).compile()
    communicated = sum(each.bytes for each in cost_of(compiled).collectives)
    assert communicated <= B * dataset.arrays["image"][0].nbytes + 64


@pytest.mark.slow
def test_feed_communicates_nothing(start, dataset, feed, sampler):
    """Each device augments its images; partners of a mix are on the device already."""
    state, step = start
    key = jax.random.key(KEY)
    mine = {name: array[:, 0] for name, array in sampler(key, 0, 1).items()}

    def fed_step(state, schedule, dataset, key):
        return step(state, feed(dataset, schedule, key), key)

    with jax.enable_x64(True):
        parallel = Parallel("jit", jax.devices()[:4])
        batch = jax.eval_shape(feed, dataset, mine, key)
        separate = parallel.lower(step, state, batch, key)
        together = parallel.lower(fed_step, state, mine, dataset, key)
        collectives = [
            sorted((each.kind, each.bytes) for each in cost_of(lowered.compile()).collectives)
            for lowered in (separate, together)
        ]
    assert collectives[0] == collectives[1]
    assert any(kind == "all-reduce" for kind, _ in collectives[0])
