"""What every accumulator must do, whatever it counts: add up, be carried by a scan, count each pixel once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg import metrics
from jaxseg.metrics import (
    Calibration,
    ConfusionMatrix,
    ImageMeans,
    MultilabelCounts,
    RunningMean,
    ThresholdSweep,
)

SHAPE, CLASSES = (8, 4, 5), 3


def of_confusion(state, batch):
    return state.update(labels=batch["labels"], predictions=batch["predictions"])


def of_multilabel(state, batch):
    return state.update(labels=batch["multilabels"], predictions=batch["multipredictions"])


def of_sweep(state, batch):
    return state.update(labels=batch["labels"], probabilities=batch["probabilities"])


def of_calibration(state, batch):
    return state.update(labels=batch["labels"], logits=batch["logits"])


def of_images(state, batch):
    options = {"labels": batch["labels"], "predictions": batch["predictions"]}
    return state.update(metrics.iou, ConfusionMatrix.per_image(CLASSES, **options))


def of_multilabel_images(state, batch):
    options = {"labels": batch["multilabels"], "predictions": batch["multipredictions"]}
    return state.update(metrics.dice, MultilabelCounts.per_image(**options))


def of_values(state, batch):
    return state.update(batch["values"])


KINDS = {
    "ConfusionMatrix": (ConfusionMatrix.zero(CLASSES), of_confusion),
    "MultilabelCounts": (MultilabelCounts.zero(CLASSES), of_multilabel),
    "ThresholdSweep": (ThresholdSweep.zero(CLASSES, thresholds=5), of_sweep),
    "Calibration": (Calibration.zero(CLASSES, bins=4), of_calibration),
    "ImageMeans": (ImageMeans.zero(CLASSES), of_images),
    "ImageMeans of several labels": (ImageMeans.zero(CLASSES), of_multilabel_images),
    "RunningMean": (RunningMean.zero((2,)), of_values),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def batch(seed=0):
    """A batch whose ignored pixels are spread unevenly, the first image being ignored altogether."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, SHAPE)
    labels[rng.random(SHAPE) < 0.2] = 255
    labels[0] = 255
    multilabels = rng.integers(0, 2, (*SHAPE, CLASSES))
    multilabels[rng.random(multilabels.shape) < 0.2] = 255
    logits = rng.normal(0, 3, (*SHAPE, CLASSES)).astype(np.float32)
    values = rng.normal(size=(len(labels), 2)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    return {
        "labels": labels.astype(np.uint8),
        "predictions": rng.integers(0, CLASSES, SHAPE).astype(np.int32),
        "multilabels": multilabels.astype(np.uint8),
        "multipredictions": rng.integers(0, 2, multilabels.shape).astype(np.int32),
        "logits": logits,
        "probabilities": np.asarray(jax.nn.softmax(logits)),
        "values": values,
    }


@functools.cache
def compiled(kind):
    return jax.jit(KINDS[kind][1])


def check(found, expected):
    """Whole numbers are equal, sums of floats nearly."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if a.dtype == jnp.float32:
            a, b = (np.asarray(x).sum(0) for x in (a, b))  # of a sum and what it has lost
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
        else:
            np.testing.assert_array_equal(a, b)


@functools.cache
def expected(kind, seeds=(0,)):
    zero, _ = KINDS[kind]
    return functools.reduce(lambda state, seed: compiled(kind)(state, batch(seed)), seeds, zero)


@kinds
@pytest.mark.sample(2)
def test_addition_is_updating(kind):
    zero, _ = KINDS[kind]
    parts = [compiled(kind)(zero, batch(seed)) for seed in range(3)]
    together = expected(kind, (0, 1, 2))
    a, b, c = parts
    for total in ((a + b) + c, a + (b + c), c + a + b, together + zero):
        check(total, together)


@kinds
@pytest.mark.sample(2)
def test_one_image_after_the_other_in_a_scan(kind):
    zero, update = KINDS[kind]

    def body(state, image):
        return update(state, jax.tree.map(lambda x: x[None], image)), None

    scan = jax.jit(lambda state, images: jax.lax.scan(body, state, images)[0])
    check(scan(zero, batch()), expected(kind))


@kinds
@pytest.mark.sample(3)
def test_it_compiles_once_for_all_batches_of_a_shape(kind):
    traces = []

    @jax.jit
    def update(state, batch):
        traces.append(1)
        return KINDS[kind][1](state, batch)

    state, _ = KINDS[kind]
    for seed in range(3):
        state = update(state, batch(seed))
    assert len(traces) == 1


@kinds
@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map"])
@pytest.mark.sample(6)
def test_every_strategy_counts_each_pixel_once(kind, strategy):
    """Twice, so that what was counted before is not summed over the devices again."""
    zero, update = KINDS[kind]
    devices, data = 4, batch()
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    everywhere, divided = PartitionSpec(), PartitionSpec("data")
    if strategy == "jit":
        shardings = [NamedSharding(mesh, spec) for spec in (everywhere, divided)]
        run = jax.jit(update, in_shardings=tuple(shardings), out_shardings=shardings[0])
    elif strategy == "pmap":
        data = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), data)
        options = {"out_axes": None, "devices": jax.devices()[:devices]}
        run = jax.pmap(update, "data", in_axes=(None, 0), **options)
    else:
        specs = {"in_specs": (everywhere, divided), "out_specs": everywhere}
        run = jax.jit(jax.shard_map(update, mesh=mesh, check_vma=False, **specs))
    check(run(run(zero, data), data), expected(kind, (0, 0)))


@kinds
def test_ignored_pixels_have_no_influence(kind):
    """Whatever is predicted for them: infinities and what is not a number included."""
    data = dict(batch())
    ignored, several = data["labels"] == 255, data["multilabels"] == 255
    rng = np.random.default_rng(1)
    for name in ("logits", "probabilities"):
        data[name] = data[name].copy()
        poison = rng.choice([np.nan, np.inf, -np.inf, 1e30], data[name][ignored].shape)
        data[name][ignored] = poison
    data["predictions"] = np.where(ignored, rng.integers(-9, 9, SHAPE), data["predictions"])
    data["multipredictions"] = np.where(several, 7, data["multipredictions"])
    data = {name: x.astype(batch()[name].dtype) for name, x in data.items()}
    check(compiled(kind)(KINDS[kind][0], data), expected(kind))


@kinds
def test_a_batch_that_is_ignored_changes_nothing(kind):
    data = {name: np.full_like(x, 255) for name, x in batch().items() if x.dtype != np.float32}
    rest = {name: np.full_like(x, np.nan) for name, x in batch().items() if name not in data}
    check(compiled(kind)(expected(kind), data | rest), expected(kind))


@kinds
@pytest.mark.sample(3)
def test_padding_with_ignored_images_changes_nothing(kind):
    def padded(x):
        fill = np.nan if x.dtype == np.float32 else 255
        return np.concatenate([x, np.full((2, *x.shape[1:]), fill, x.dtype)])

    data = {name: padded(x) for name, x in batch().items()}
    check(compiled(kind)(KINDS[kind][0], data), expected(kind))


@pytest.mark.parametrize("kind", list(KINDS)[:4])
@pytest.mark.sample(2)
def test_x64_changes_no_count(kind):
    """Means over images, of floats, are in float64 then."""
    zero, update = KINDS[kind]
    data = {name: x.astype(np.int64) if x.dtype.kind in "iu" else x for name, x in batch().items()}
    with jax.enable_x64(True):
        found = jax.jit(update)(zero, data)
    check(found, expected(kind))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.uint32)}
