"""Threshold sweeps and calibration beside torchmetrics and scikit-learn."""

import functools
import importlib
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.metrics import Calibration, ThresholdSweep

pytestmark = pytest.mark.parity
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
SHAPE = (2, 12, 10)


def load(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if name not in ("torch", "sklearn.metrics") and REFERENCE.is_dir():
                sys.path.append(str(REFERENCE))  # stand-ins for what a CPU-only torch lacks
                importlib.import_module("torch_cpu")
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"{name} cannot be imported here: {error}")


@pytest.fixture(scope="module")
def torch():
    return load("torch")


@pytest.fixture(scope="module")
def sklearn():
    return load("sklearn.metrics")


@pytest.fixture(scope="module")
def classification():
    return load("torchmetrics.functional.classification")


@functools.cache
def sweep_update():
    return jax.jit(
        lambda sweep, labels, probabilities: sweep.update(
            labels=labels, probabilities=probabilities
        )
    )


@functools.cache
def calibration_update():
    return jax.jit(lambda sums, labels, logits: sums.update(labels=labels, logits=logits))


def drawn(num_classes, seed=0):
    """Labels, logits and probabilities that know something of the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, max(num_classes, 2), SHAPE)
    logits = rng.normal(size=(*SHAPE, num_classes)).astype(np.float32)
    if num_classes == 1:
        logits[..., 0] += labels
        probabilities = jax.nn.sigmoid(logits)
    else:
        logits += 1.5 * np.eye(num_classes, dtype=np.float32)[labels]
        probabilities = jax.nn.softmax(logits)
    labels[rng.random(SHAPE) < 0.2] = 255
    return labels, logits, np.array(probabilities)


def channels_first(torch, array):
    return torch.from_numpy(np.moveaxis(np.asarray(array), -1, 1).copy())


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_binary_curves_are_torchmetrics(torch, classification, seed):
    labels, _, probabilities = drawn(1, seed)
    sweep = sweep_update()(ThresholdSweep.zero(1), labels, probabilities)
    pair = torch.from_numpy(probabilities[..., 0]), torch.from_numpy(labels)
    options = {"thresholds": torch.from_numpy(sweep.thresholds), "ignore_index": 255}
    precision, recall, _ = classification.binary_precision_recall_curve(*pair, **options)
    curve = metrics.precision_recall_curve(sweep)
    close(curve.y[:-1, 0], precision[:-1])
    close(curve.x[:, 0], recall)
    x, y, _ = classification.binary_roc(*pair, **options)
    roc = metrics.roc_curve(sweep)
    close(roc.x[:-1, 0], x.flip(0))
    close(roc.y[:-1, 0], y.flip(0))
    close(
        metrics.average_precision(sweep)[0],
        classification.binary_average_precision(*pair, **options),
    )
    if float(roc.y[-2, 0]) == float(roc.x[-2, 0]) == 0:  # torchmetrics has no point at (0, 0)
        close(metrics.area_under_roc(sweep)[0], classification.binary_auroc(*pair, **options))


@pytest.mark.parametrize("seed", range(3))
def test_areas_are_sklearns_of_rounded_probabilities(sklearn, seed):
    labels, _, probabilities = drawn(1, seed)
    probabilities[0, 0, :4, 0] = [0.0, 1.0, 0.5, 255 / 256]
    for thresholds in (8, 256):
        zero = ThresholdSweep.zero(1, thresholds=thresholds)
        sweep = sweep_update()(zero, labels, probabilities)
        valid = labels != 255
        p = np.minimum(np.floor(probabilities[valid][:, 0] * thresholds), thresholds - 1)
        close(metrics.area_under_roc(sweep)[0], sklearn.roc_auc_score(labels[valid], p))
        close(
            metrics.average_precision(sweep)[0], sklearn.average_precision_score(labels[valid], p)
        )


def test_many_thresholds_come_near_the_exact_areas(sklearn):
    labels, _, probabilities = drawn(1)
    zero = ThresholdSweep.zero(1, thresholds=4096)
    sweep = sweep_update()(zero, labels, probabilities)
    valid = labels != 255
    exact = sklearn.roc_auc_score(labels[valid], probabilities[valid][:, 0])
    assert abs(float(metrics.area_under_roc(sweep)[0]) - exact) < 2e-4


def test_multiclass_curves_are_torchmetrics(torch, classification):
    labels, _, probabilities = drawn(3)
    sweep = sweep_update()(ThresholdSweep.zero(3), labels, probabilities)
    pair = channels_first(torch, probabilities), torch.from_numpy(labels)
    options = {
        "num_classes": 3,
        "thresholds": torch.from_numpy(sweep.thresholds),
        "ignore_index": 255,
    }
    precision, recall, _ = classification.multiclass_precision_recall_curve(*pair, **options)
    curve = metrics.precision_recall_curve(sweep)
    close(curve.y[:-1], precision[:, :-1].T)
    close(curve.x, recall.T)
    close(
        metrics.average_precision(sweep),
        classification.multiclass_average_precision(*pair, average="none", **options),
    )
    tp, fp, fn, _ = sweep.confusion_counts()
    for i in (0, 64, 128, 200):
        each = probabilities >= sweep.thresholds[i]
        theirs = classification.multilabel_jaccard_index(
            channels_first(torch, each.astype(np.int64)),
            channels_first(
                torch, np.where(labels[..., None] == 255, 255, labels[..., None] == range(3))
            ),
            num_labels=3,
            ignore_index=255,
            average="none",
        )
        close(metrics.iou(sweep.confusion_counts())[i], theirs)
        close(tp[i] / (tp[i] + fp[i] + fn[i]), theirs)


def test_multilabel_curves_are_torchmetrics(torch, classification):
    rng = np.random.default_rng(0)
    probabilities = rng.random((*SHAPE, 3)).astype(np.float32)
    labels = rng.choice([0, 1, 255], probabilities.shape)
    sweep = sweep_update()(ThresholdSweep.zero(3, thresholds=100), labels, probabilities)
    pair = channels_first(torch, probabilities), channels_first(torch, labels)
    options = {
        "num_labels": 3,
        "thresholds": torch.from_numpy(sweep.thresholds),
        "ignore_index": 255,
    }
    precision, recall, _ = classification.multilabel_precision_recall_curve(*pair, **options)
    curve = metrics.precision_recall_curve(sweep)
    close(curve.y[:-1], precision[:, :-1].T)
    close(curve.x, recall.T)


@pytest.mark.parametrize("bins", [10, 15])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_calibration_error_is_torchmetrics(torch, classification, num_classes, bins):
    labels, logits, probabilities = drawn(num_classes)
    sums = calibration_update()(Calibration.zero(num_classes, bins=bins), labels, logits)
    theirs = classification.multiclass_calibration_error(
        channels_first(torch, probabilities),
        torch.from_numpy(labels),
        num_classes=num_classes,
        n_bins=bins,
        ignore_index=255,
    )
    close(metrics.expected_calibration_error(sums), theirs)


@pytest.mark.parametrize("bins", [10, 15])
@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_the_calibration_error_of_a_class_is_torchmetrics_of_it_against_the_others(
    torch, classification, num_classes, bins
):
    labels, logits, probabilities = drawn(num_classes)
    sums = calibration_update()(Calibration.zero(num_classes, bins=bins), labels, logits)
    if num_classes == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], -1)
    theirs = [
        classification.binary_calibration_error(
            torch.from_numpy(probabilities[..., c].copy()),
            torch.from_numpy(np.where(labels == 255, 255, labels == c)),
            n_bins=bins,
            norm="l1",
            ignore_index=255,
        )
        for c in range(probabilities.shape[-1])
    ]
    close(metrics.ece_per_class(sums), theirs)


def test_binary_calibration_error_is_where_torchmetrics_differs(torch, classification):
    """It bins the probability of class 1; the confidence in the predicted class is what its multiclass form bins."""
    labels, logits, probabilities = drawn(1)
    sums = calibration_update()(Calibration.zero(1), labels, logits)
    pair = torch.from_numpy(probabilities[..., 0]), torch.from_numpy(labels)
    binary = classification.binary_calibration_error(*pair, ignore_index=255)
    both = np.concatenate([1 - probabilities, probabilities], -1)
    two = classification.multiclass_calibration_error(
        channels_first(torch, both), pair[1], num_classes=2, ignore_index=255
    )
    ours = metrics.expected_calibration_error(sums)
    close(ours, two)
    assert abs(float(ours) - float(binary)) > 1e-3


def test_certain_pixels_are_where_torchmetrics_differs(torch, classification):
    """A confidence of exactly 1 has a bin of its own there: 0.25 and 0.75 do not make up for each other."""
    p = np.array([0.95, 1.0])
    logits = np.stack([np.zeros(2), np.array([np.log(0.95 / 0.05), 40.0])], -1)
    labels = np.array([1, 0])
    sums = calibration_update()(
        Calibration.zero(2, bins=10),
        labels.reshape(1, 1, 2),
        logits.reshape(1, 1, 2, 2).astype(np.float32),
    )
    theirs = classification.multiclass_calibration_error(
        torch.from_numpy(np.stack([1 - p, p], -1)),
        torch.from_numpy(labels),
        num_classes=2,
        n_bins=10,
    )
    close(metrics.expected_calibration_error(sums), abs(1.95 - 1) / 2)
    close(theirs, (0.05 + 1) / 2)


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_brier_score_and_likelihood_are_sklearns(sklearn, num_classes):
    labels, logits, probabilities = drawn(num_classes)
    sums = calibration_update()(Calibration.zero(num_classes), labels, logits)
    valid = labels != 255
    p, y = probabilities[valid].astype(np.float64), labels[valid]
    if num_classes == 1:
        p = np.concatenate([1 - p, p], -1)
    p /= p.sum(-1, keepdims=True)
    options = {"labels": range(max(num_classes, 2))}
    close(metrics.negative_log_likelihood(sums), sklearn.log_loss(y, p, **options))
    theirs = sklearn.brier_score_loss(y, p, scale_by_half=False, **options)
    close(metrics.brier_score(sums), theirs)
    if num_classes < 3:
        close(metrics.brier_score(sums), 2 * sklearn.brier_score_loss(y, p[:, 1]))
