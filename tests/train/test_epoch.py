"""Whole epochs on the device: one program, a loop of steps and batches fed by the host are one and the same training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import collective, data, train
from jaxseg.data.device_augment import random_cutmix, random_view
from jaxseg.train.epoch import looped, scanned
from jaxseg.train.parallel import Parallel

L, B, STEPS = 11, 4, 4
KEY = 3


@pytest.fixture(scope="module")
def dataset():
    """Eleven images, so that the third batch holds the end of an epoch and the beginning of the next."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (L, 9, 8)).astype(np.uint8)
    label[::2, :5] = 255
    return data.OnDevice(rng.integers(0, 256, (L, 9, 8, 2), dtype=np.uint8), label)


@pytest.fixture(scope="module")
def feed():
    view = random_view((6, 5), scale=(0.7, 1.5), rotate=20.0)
    return data.make_feed(view, [random_cutmix(0.7)])


@pytest.fixture(scope="module")
def places():
    return data.make_places(L, B)


@pytest.fixture(scope="module")
def start(conv_net, optimizer, loss_fn):
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 6, 5, 2)))
        step = train.make_train_step(
            model,
            optimizer,
            train.with_counts(loss_fn, 3),
            preprocess=lambda x: x.astype(jnp.float64) / 255,
        )
        return train.create_state(variables, optimizer), train.skip_nonfinite(step)


@pytest.fixture(scope="module")
def fed_by_the_host(start, dataset, feed, places):
    """Each batch made apart from the step, on one device."""
    state, step = start
    batches, rows = [], []
    with jax.enable_x64(True):
        parallel = Parallel("jit", jax.devices()[:1])
        state, step, make = parallel.replicate(state), parallel.compile(step), jax.jit(feed)
        drawn = places(jax.random.key(KEY), 0, STEPS)
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
    """The set with rows that nobody may see, for the devices to divide it."""
    image, label = (
        np.concatenate([array, np.full((rows - L, *array.shape[1:]), 77, np.uint8)])
        for array in (dataset.image, dataset.label)
    )
    return data.OnDevice(image, label, L, True)


def equal(got, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12), got, expected)


@pytest.mark.parametrize(
    ("form", "strategy", "cut"),
    [
        (scanned, "jit", False),
        (looped, "shard_map", True),
        pytest.param(looped, "jit", True, marks=pytest.mark.slow),
        pytest.param(scanned, "jit", True, marks=pytest.mark.slow),
        pytest.param(looped, "jit", False, marks=pytest.mark.slow),
        pytest.param(scanned, "pmap", True, marks=pytest.mark.slow),
        pytest.param(looped, "pmap", False, marks=pytest.mark.slow),
        pytest.param(scanned, "shard_map", True, marks=pytest.mark.slow),
        pytest.param(scanned, "shard_map", False, marks=pytest.mark.slow),
    ],
)
def test_every_form_and_strategy_equals_batches_from_the_host(
    start, dataset, feed, places, fed_by_the_host, form, strategy, cut
):
    state, step = start
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:4])
        run = form(step, feed, parallel)
        key = jax.random.key(KEY)
        kept = parallel.keep(filled(dataset, 12) if cut else dataset, cut=cut)
        got = run(parallel.replicate(state), places(key, 0, STEPS), kept, key)
        for leaf in jax.tree.leaves(got):
            assert leaf.sharding.is_fully_replicated
            assert leaf.sharding.device_set == set(parallel.devices)
        equal(jax.device_get(got), fed_by_the_host[1])


def test_the_reference_trains_and_augments(start, dataset, fed_by_the_host):
    """Otherwise the equality above would say nothing."""
    batches, (state, logs) = fed_by_the_host
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


def test_skipped_updates_are_told_of_each_step(start, dataset, places):
    """A batch that holds image 5 has a loss that is not finite."""
    _, step = start
    drawn = places(jax.random.key(KEY), 0, STEPS)

    def feed(dataset, places, key):
        image, label = dataset.take(places["index"])
        hurt = jnp.where((places["index"] == 5)[:, None, None, None], jnp.nan, jnp.float64(1))
        return {"image": image.astype(jnp.float64) * hurt, "label": label}

    with jax.enable_x64(True):
        parallel = Parallel("shard_map", jax.devices()[:2])
        key = jax.random.key(KEY)
        state, logs = scanned(step, feed, parallel)(
            parallel.replicate(start[0]), drawn, parallel.keep(dataset), key
        )
    hurt = (drawn["index"] == 5).any(0)
    assert 0 < hurt.sum() < STEPS
    np.testing.assert_array_equal(logs["skipped_in_row"] > 0, hurt)
    assert int(state.skipped[0]) == hurt.sum()


def gathered(dataset, places, key):
    image, label = dataset.take(places["index"])
    return {"image": image, "label": label}


def note(state, batch, key):
    """A step that logs which images it was given."""
    return state.replace(step=state.step + 1), {"seen": batch["image"][:, 0, 0, 0]}


def numbered(length):
    images = np.broadcast_to(
        np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 2, 2, 1)
    )
    return data.OnDevice(images, images[..., 0])


def epochs_of(length, batch_size, epochs, *, stop=None):
    """What is seen in each step of some epochs, the run broken off and taken up again at one step if so asked."""
    parallel = Parallel("jit", jax.devices()[:1])
    places, key = data.make_places(length, batch_size), jax.random.key(1)
    steps = max(1, length // batch_size)
    run = looped(note, gathered, parallel)
    epoch = train.make_epoch(run, places, steps=steps)
    state = train.create_state({"params": {}}, optax.identity())
    state, dataset = parallel.replicate(state), parallel.keep(numbered(length))
    seen = []
    if stop:
        state, logs = run(state, places(key, 0, stop), dataset, key)
        seen.append(logs["seen"])
    while int(state.step) < epochs * steps:
        state, logs = epoch(state, dataset, key)
        seen.append(logs["seen"])
    return np.concatenate(seen)


@pytest.mark.parametrize(("length", "batch_size"), [(12, 4), (11, 4), (3, 4), (1, 2)])
def test_every_image_is_seen_once_before_any_is_again(length, batch_size):
    """What an epoch's batches leave over begins the next."""
    stream = epochs_of(length, batch_size, 8).ravel()
    whole = stream[: len(stream) // length * length].reshape(-1, length)
    assert len(whole) >= 2
    for epoch in whole:
        assert sorted(epoch) == list(range(length))
    assert length < 4 or len(np.unique(whole, axis=0)) == len(whole)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_run_that_stopped_anywhere_goes_on_to_the_same_batches(stop):
    np.testing.assert_array_equal(epochs_of(11, 4, 4, stop=stop), epochs_of(11, 4, 4))


@pytest.mark.parametrize("strategy", ["jit", "shard_map"])
def test_of_a_set_that_is_cut_no_more_than_the_batch_travels(dataset, places, strategy):
    """And each device holds its part alone."""
    parallel, key = Parallel(strategy, jax.devices()[:4]), jax.random.key(KEY)
    kept = parallel.keep(filled(dataset, 12), cut=True)
    for array in (kept.image, kept.label):
        assert [len(shard.data) for shard in array.addressable_shards] == [3, 3, 3, 3]
    mine = {name: array[:, 0] for name, array in places(key, 0, 1).items()}

    def brightness(state, places, dataset):
        image, _ = dataset.take(places["index"])
        return state + collective.psum(image.astype(jnp.float32).sum())

    fn = parallel.compile(brightness, divided=(1, 2))
    arguments = parallel.replicate(jnp.float32(0)), parallel.shard(mine), kept
    found = float(fn(*arguments))
    assert found == dataset.image[mine["index"]].sum(dtype=np.float64)
    compiled = parallel._compile(brightness, arguments, (), (1, 2)).lower(*arguments).compile()
    travels = sum(each.bytes for each in train.needs(compiled).exchanges)
    assert travels <= B * dataset.image[0].nbytes + 64


def test_making_batches_on_the_device_exchanges_nothing(start, dataset, feed, places):
    """Each device augments its own images; partners of a mix are there already."""
    state, step = start
    key = jax.random.key(KEY)
    mine = {name: array[:, 0] for name, array in places(key, 0, 1).items()}

    def fed(state, places, dataset, key):
        return step(state, feed(dataset, places, key), key)

    with jax.enable_x64(True):
        parallel = Parallel("jit", jax.devices()[:4])
        batch = jax.eval_shape(feed, dataset, mine, key)
        apart = parallel.lower(step, state, batch, key)
        together = parallel.lower(fed, state, mine, dataset, key)
        exchanges = [
            sorted((each.kind, each.bytes) for each in train.needs(lowered.compile()).exchanges)
            for lowered in (apart, together)
        ]
    assert exchanges[0] == exchanges[1]
    assert any(kind == "all-reduce" for kind, _ in exchanges[0])
