import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionCounts, ThresholdSweep
from jaxseg.metrics.histogram import bin_of, edges

SHAPE = (2, 6, 5)


@functools.cache
def update(ignore_index=255):
    return jax.jit(
        lambda sweep, labels, probabilities: sweep.update(
            labels=labels, probabilities=probabilities, ignore_index=ignore_index
        )
    )


def drawn(num_classes, bins, seed=0, multilabel=False, shape=SHAPE):
    """A third of the probabilities lie on a threshold, some on 0 and 1."""
    rng = np.random.default_rng(seed)
    probabilities = rng.random((*shape, num_classes)).astype(np.float32)
    on_edge = (rng.integers(0, bins + 1, probabilities.shape) / bins).astype(np.float32)
    probabilities = np.where(rng.random(probabilities.shape) < 0.3, on_edge, probabilities)
    labels = rng.integers(0, 2 if multilabel else max(num_classes, 2), (*shape, num_classes))
    labels[rng.random(labels.shape) < 0.2] = 255
    return (labels if multilabel else labels[..., 0]).astype(np.uint8), probabilities


def counted(labels, probabilities, thresholds):
    """Directly, threshold by threshold: tp, fp, fn, tn, `[B, K]` each."""
    classes = probabilities.shape[-1]
    rows = []
    for threshold in thresholds:
        for c in range(classes):
            if labels.ndim == 4:
                truth, valid = labels[..., c] == 1, labels[..., c] != 255
            else:
                truth, valid = labels == (1 if classes == 1 else c), labels != 255
            predicted = probabilities[..., c] >= threshold
            pairs = ((1, 1), (0, 1), (1, 0), (0, 0))
            rows.append([((truth == t) & (predicted == p) & valid).sum() for t, p in pairs])
    return ConfusionCounts(*np.moveaxis(np.reshape(rows, (len(thresholds), classes, 4)), -1, 0))


@pytest.mark.parametrize("bins", [1, 7, 16, 100, 256])
@pytest.mark.parametrize(
    ("num_classes", "multilabel"), [(1, False), (1, True), (3, False), (3, True)]
)
@pytest.mark.sample(5)
def test_every_threshold_is_counted_exactly(num_classes, multilabel, bins):
    labels, probabilities = drawn(num_classes, bins, multilabel=multilabel)
    zero = ThresholdSweep.zero(num_classes, thresholds=bins)
    sweep = update()(zero, labels, probabilities)
    assert sweep.thresholds.dtype == np.float32
    expected = counted(labels, probabilities, sweep.thresholds)
    for found, exact in zip(sweep.confusion_counts(), expected, strict=True):
        np.testing.assert_array_equal(found, exact)
    assert sweep.to_numpy().sum() == expected.tp[0].sum() + expected.fp[0].sum()


@settings(max_examples=100)
@given(st.integers(1, 2000), st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8))
def test_the_bin_is_that_of_the_last_threshold_passed(bins, drawn):
    thresholds = edges(bins)
    near = [np.nextafter(thresholds[-1], np.float32(side)) for side in (0, 1)]
    p = np.array([*drawn, *near, *thresholds[:: max(bins // 7, 1)], 1.0], np.float32)
    p = np.concatenate([p, np.zeros(64, np.float32)])[:64]
    with jax.disable_jit():
        found = bin_of(jnp.asarray(p), bins)
    np.testing.assert_array_equal(found, (p[:, None] >= thresholds).sum(1).clip(1) - 1)


def test_what_is_no_probability():
    odd = jnp.array([jnp.nan, -0.5, 1.5, jnp.inf, -jnp.inf, 1.0])
    for bins in (4, 5):
        assert bin_of(odd, bins).tolist() == [0, 0, bins - 1, bins - 1, 0, bins - 1]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_are_swept_at_the_same_thresholds(dtype):
    labels, probabilities = drawn(1, 10)
    probabilities = jnp.asarray(probabilities).astype(dtype)
    sweep = update()(ThresholdSweep.zero(1, thresholds=10), labels, probabilities)
    exact = counted(labels, np.asarray(probabilities.astype(jnp.float32)), sweep.thresholds)
    np.testing.assert_array_equal(sweep.confusion_counts().tp, exact.tp)


def test_scores_take_the_outcomes_of_every_threshold():
    labels, probabilities = drawn(3, 256)
    sweep = update()(ThresholdSweep.zero(3), labels, probabilities)
    tp, fp, fn, tn = counted(labels, probabilities, sweep.thresholds)
    with np.errstate(invalid="ignore"):
        expected = {
            metrics.iou: tp / (tp + fp + fn),
            metrics.dice: 2 * tp / (2 * tp + fp + fn),
            metrics.precision: tp / (tp + fp),
            metrics.specificity: tn / (tn + fp),
        }
    parts = sweep.confusion_counts()
    for score, values in expected.items():
        np.testing.assert_allclose(score(parts), values, rtol=0, atol=1e-6)
        assert score(parts).shape == (256, 3)
    np.testing.assert_allclose(
        metrics.macro(metrics.iou, parts), expected[metrics.iou].mean(1), atol=1e-6
    )
    assert metrics.micro(metrics.iou, parts).shape == (256,)
    np.testing.assert_array_equal(
        metrics.iou(jax.device_get(sweep).confusion_counts()), expected[metrics.iou]
    )


@pytest.mark.parametrize("score", [metrics.iou, metrics.dice])
def test_the_best_threshold_is_where_direct_counting_scores_best(score):
    labels, probabilities = drawn(3, 16, multilabel=True)
    sweep = update()(ThresholdSweep.zero(3, thresholds=16), labels, probabilities)
    best = metrics.best_threshold(score, sweep)
    exact = score(ConfusionCounts(*counted(labels, probabilities, sweep.thresholds)))
    np.testing.assert_array_equal(best.threshold, sweep.thresholds[exact.argmax(0)])
    np.testing.assert_allclose(best.score, exact.max(0), atol=1e-6)


def perfect(inverted=False):
    labels = np.array([[[0, 0, 1, 1]]])
    return labels, np.where(labels ^ inverted, 0.9, 0.1).astype(np.float32)[..., None]


@pytest.mark.parametrize(("inverted", "area"), [(False, 1.0), (True, 0.0)])
def test_curves_of_perfect_and_of_inverted_predictions(inverted, area):
    sweep = update()(ThresholdSweep.zero(1), *perfect(inverted))
    assert float(metrics.area_under_roc(sweep)[0]) == area
    assert float(metrics.average_precision(sweep)[0]) == (0.5 if inverted else 1.0)
    roc = metrics.roc_curve(sweep)
    assert (roc.x.shape, roc.y.shape, roc.thresholds.shape) == ((257, 1), (257, 1), (257,))
    assert (float(roc.x[0, 0]), float(roc.y[0, 0])) == (1, 1)
    assert (float(roc.x[-1, 0]), float(roc.y[-1, 0])) == (0, 0)
    assert np.isinf(roc.thresholds[-1])
    curve = metrics.precision_recall_curve(sweep)
    assert float(curve.x[0, 0]) == 1
    assert float(curve.y[0, 0]) == 0.5
    assert np.isnan(curve.y[-1, 0])


def test_equal_probabilities_tell_nothing():
    labels = np.array([[[0, 0, 1, 1]]])
    sweep = update()(ThresholdSweep.zero(1), labels, np.full((1, 1, 4, 1), 0.3, np.float32))
    assert float(metrics.area_under_roc(sweep)[0]) == 0.5
    assert float(metrics.average_precision(sweep)[0]) == 0.5


@pytest.mark.parametrize("only", [0, 1, 255])
def test_without_one_of_both_there_are_no_areas(only):
    labels, probabilities = np.full(SHAPE, only), drawn(1, 9)[1]
    sweep = update()(ThresholdSweep.zero(1), labels, probabilities)
    assert np.isnan(metrics.area_under_roc(sweep)[0])
    assert np.isnan(metrics.average_precision(sweep)[0]) == (only != 1)
    best = metrics.best_threshold(metrics.iou, sweep)
    assert np.isnan(best.score[0]) == (only == 255)
    assert np.isnan(metrics.roc_curve(sweep).x).all() == (only != 0)


def test_huge_counts_keep_their_digits():
    """1e15 pixels without the class beside a few with it, in float32."""
    limbs = np.zeros((1, 256, 2, 3), np.uint32)
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(0, 10**13, 256), rng.integers(0, 9, 256)], -1)
    for i in range(3):
        limbs[0, ..., i] = counts >> 24 * i & 0xFFFFFF
    sweep = ThresholdSweep(jnp.asarray(limbs))
    host = jax.device_get(sweep)
    for function in (
        metrics.area_under_roc,
        metrics.average_precision,
        lambda sweep: metrics.iou(sweep.confusion_counts()),
        lambda sweep: metrics.specificity(sweep.confusion_counts()),
        lambda sweep: metrics.roc_curve(sweep).x,
    ):
        assert function(host).dtype == np.float64
        np.testing.assert_allclose(function(sweep), function(host), rtol=0, atol=5e-7)


def test_bad_input_is_named():
    sweep = ThresholdSweep.zero(3)
    labels, probabilities = jnp.zeros((1, 2, 2), jnp.int32), jnp.zeros((1, 2, 2, 3))
    for classes, thresholds in ((0, 256), (1, 0), (1, 2**16 + 1)):
        with pytest.raises(InputError, match=f"{classes} classes and {thresholds}"):
            ThresholdSweep.zero(classes, thresholds=thresholds)
    with pytest.raises(InputError, match="3 classes of the sweep"):
        sweep.update(labels=labels, probabilities=probabilities[..., :1])
    with pytest.raises(InputError, match="floating, not int32"):
        sweep.update(labels=labels, probabilities=probabilities.astype(jnp.int32))
    with pytest.raises(InputError, match="do not fit"):
        sweep.update(labels=labels[:, :1], probabilities=probabilities)
    with pytest.raises(InputError, match="integers, not float32"):
        sweep.update(labels=labels.astype(jnp.float32), probabilities=probabilities)
    with pytest.raises(InputError, match="cannot be added"):
        sweep + ThresholdSweep.zero(3, thresholds=8)
