"""Counts and scores beside torchmetrics, scikit-learn and smp on random, empty, full, one-pixel and huge inputs."""

import functools
import importlib
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.metrics import ConfusionMatrix, ImageMeans, MultilabelCounts

pytestmark = pytest.mark.parity
REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
CLASSES, SHAPE = 4, (3, 6, 7)
CASES = ("random", "skewed", "absent", "full", "one class", "wrong", "one pixel", "ignored")


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


@pytest.fixture(scope="module")
def segmentation():
    load("torchmetrics")
    return load("torchmetrics.segmentation")


@pytest.fixture(scope="module")
def smp():
    return load("segmentation_models_pytorch").metrics


def drawn(case, seed=0):
    """Labels and predictions `[N, H, W]`, 255 where ignored."""
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, CLASSES, (2, *SHAPE))
    labels[rng.random(SHAPE) < 0.2] = 255
    if case == "skewed":
        labels, predictions = (
            np.where(rng.random(SHAPE) < 0.9, 0, x) for x in (labels, predictions)
        )
    elif case == "absent":
        labels, predictions = (np.where(x == 2, 1, x) for x in (labels, predictions))
        labels = np.where(labels == 3, 0, labels)  # class 3 is only predicted
    elif case == "full":
        predictions = np.where(labels == 255, 0, labels)
    elif case == "one class":
        labels, predictions = np.full(SHAPE, 1), np.full(SHAPE, 1)
    elif case == "wrong":
        labels, predictions = np.full(SHAPE, 1), np.full(SHAPE, 2)
    elif case == "one pixel":
        labels, predictions = np.full(SHAPE, 255), np.full(SHAPE, 3)
        labels[1, 2, 3] = 1
    elif case == "ignored":
        labels = np.full(SHAPE, 255)
    return labels, predictions


@functools.cache
def update():
    return jax.jit(lambda counts, y, p: counts.update(labels=y, predictions=p))


def counted(case):
    return update()(ConfusionMatrix.zero(CLASSES), *drawn(case))


def flat(case):
    labels, predictions = drawn(case)
    valid = labels != 255
    return labels[valid], predictions[valid]


def tensors(torch, *arrays):
    return [torch.from_numpy(np.ascontiguousarray(x).astype(np.int64)) for x in arrays]


def close(ours, theirs, **options):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=1e-6, **options)


@pytest.mark.parametrize("case", CASES)
def test_counts_are_torchmetrics_and_sklearns(torch, classification, sklearn, case):
    labels, predictions = drawn(case)
    theirs = classification.multiclass_confusion_matrix(
        *tensors(torch, predictions, labels), num_classes=CLASSES, ignore_index=255
    )
    np.testing.assert_array_equal(counted(case).to_numpy(), theirs)
    if case != "ignored":
        theirs = sklearn.confusion_matrix(*flat(case), labels=range(CLASSES))
        np.testing.assert_array_equal(counted(case).to_numpy(), theirs)


@pytest.mark.parametrize("beta", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("case", CASES[:-1])
def test_precision_recall_and_f_are_sklearns(sklearn, case, beta):
    """With zero_division=nan: absent classes have no score, and are in no mean."""
    labels, predictions = flat(case)
    options = {"labels": range(CLASSES), "zero_division": np.nan}
    scores = {
        metrics.precision: sklearn.precision_score,
        metrics.recall: sklearn.recall_score,
        functools.partial(metrics.f_beta, beta=beta): functools.partial(
            sklearn.fbeta_score, beta=beta
        ),
    }
    for ours, theirs in scores.items():
        counts = counted(case)
        close(ours(counts), theirs(labels, predictions, average=None, **options))
        close(metrics.micro(ours, counts), theirs(labels, predictions, average="micro", **options))
        each = theirs(labels, predictions, average=None, **options)
        close(metrics.macro(ours, counts), np.nanmean(each))
        truth = np.bincount(labels, minlength=CLASSES)
        kept = ~np.isnan(each)
        with np.errstate(invalid="ignore"):
            expected = (each[kept] * truth[kept]).sum() / np.float64(truth[kept].sum())
        close(metrics.weighted(ours, counts), expected)


@pytest.mark.parametrize("case", ["random", "skewed", "full"])
def test_means_where_every_class_is_there_are_sklearns(sklearn, case):
    labels, predictions = flat(case)
    counts = counted(case)
    for ours, theirs in (
        (metrics.iou, sklearn.jaccard_score),
        (metrics.dice, sklearn.f1_score),
        (metrics.precision, sklearn.precision_score),
        (metrics.recall, sklearn.recall_score),
    ):
        close(ours(counts), theirs(labels, predictions, average=None))
        for reduce, average in (
            (metrics.macro, "macro"),
            (metrics.micro, "micro"),
            (metrics.weighted, "weighted"),
        ):
            close(reduce(ours, counts), theirs(labels, predictions, average=average))
    close(metrics.pixel_accuracy(counts), sklearn.accuracy_score(labels, predictions))
    close(metrics.mean_accuracy(counts), sklearn.balanced_accuracy_score(labels, predictions))


@pytest.mark.filterwarnings("ignore:.*classes.*")
@pytest.mark.parametrize("case", CASES[:-1])
def test_kappa_and_correlation_are_sklearns(sklearn, case):
    labels, predictions = flat(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is not defined
        kappa = sklearn.cohen_kappa_score(labels, predictions)
        correlation = sklearn.matthews_corrcoef(labels, predictions)
    close(metrics.cohen_kappa(counted(case)), kappa)
    constant = len(set(labels)) == 1 or len(set(predictions)) == 1
    assert not constant or correlation == 0
    close(metrics.matthews_correlation(counted(case)), np.nan if constant else correlation)


@pytest.mark.parametrize("case", CASES[:3])
def test_scores_are_torchmetrics(torch, classification, case):
    """Where torchmetrics has classes without a score it says 0, and leaves absent ones out of its macro means."""
    labels, predictions = tensors(torch, *drawn(case))
    options = {"num_classes": CLASSES, "ignore_index": 255}
    counts = counted(case)
    for ours, theirs in (
        (metrics.iou, classification.multiclass_jaccard_index),
        (metrics.dice, classification.multiclass_f1_score),
        (metrics.precision, classification.multiclass_precision),
        (metrics.recall, classification.multiclass_recall),
        (metrics.specificity, classification.multiclass_specificity),
    ):
        each = theirs(predictions, labels, average="none", **options)
        close(np.nan_to_num(ours(counts)), each)
        close(metrics.micro(ours, counts), theirs(predictions, labels, average="micro", **options))
        if case != "absent":
            for reduce, average in ((metrics.macro, "macro"), (metrics.weighted, "weighted")):
                close(reduce(ours, counts), theirs(predictions, labels, average=average, **options))
    for ours, theirs in (
        (metrics.cohen_kappa, classification.multiclass_cohen_kappa),
        (metrics.matthews_correlation, classification.multiclass_matthews_corrcoef),
    ):
        close(ours(counts), theirs(predictions, labels, **options))


def test_absent_classes_are_no_part_of_torchmetrics_mean_iou_either(torch, classification):
    labels, predictions = tensors(torch, *drawn("absent"))
    theirs = classification.multiclass_jaccard_index(
        predictions, labels, num_classes=CLASSES, ignore_index=255
    )
    close(metrics.mean_iou(counted("absent")), theirs)


@pytest.mark.parametrize("seed", range(3))
def test_multilabel_counts_and_scores_are_torchmetrics(torch, classification, seed):
    rng = np.random.default_rng(seed)
    labels, predictions = rng.integers(0, 2, (2, *SHAPE, CLASSES))
    labels[rng.random(labels.shape) < 0.2] = 255
    counts = MultilabelCounts.zero(CLASSES).update(labels=labels, predictions=predictions)
    p, t = tensors(torch, *(np.moveaxis(x, -1, 1) for x in (predictions, labels)))
    options = {"num_labels": CLASSES, "ignore_index": 255}
    theirs = classification.multilabel_confusion_matrix(p, t, **options)
    np.testing.assert_array_equal(counts.to_numpy(), theirs)
    for ours, function in (
        (metrics.iou, classification.multilabel_jaccard_index),
        (metrics.dice, classification.multilabel_f1_score),
        (metrics.precision, classification.multilabel_precision),
        (metrics.recall, classification.multilabel_recall),
        (metrics.specificity, classification.multilabel_specificity),
    ):
        close(ours(counts), function(p, t, average="none", **options))
        close(metrics.micro(ours, counts), function(p, t, average="micro", **options))
        close(metrics.macro(ours, counts), function(p, t, average="macro", **options))
        close(metrics.weighted(ours, counts), function(p, t, average="weighted", **options))
    close(
        metrics.pixel_accuracy(counts),
        classification.multilabel_accuracy(p, t, average="micro", **options),
    )
    for c in range(CLASSES):
        valid = labels[..., c] != 255
        pair = tensors(torch, predictions[..., c][valid], labels[..., c][valid])
        close(metrics.cohen_kappa(counts)[c], classification.binary_cohen_kappa(*pair))
        close(
            metrics.matthews_correlation(counts)[c], classification.binary_matthews_corrcoef(*pair)
        )


def test_one_sigmoid_with_a_threshold_is_torchmetrics(torch, classification):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=SHAPE).astype(np.float32)
    labels = rng.choice([0, 1, 255], SHAPE)
    for threshold in (0.2, 0.5, 0.81):
        predictions = metrics.labels_from_logits(
            jnp.asarray(logits)[..., None], threshold=threshold
        )
        counts = ConfusionMatrix.zero(1).update(labels=labels, predictions=predictions)
        theirs = classification.binary_confusion_matrix(
            torch.sigmoid(torch.from_numpy(logits)),
            *tensors(torch, labels),
            threshold=threshold,
            ignore_index=255,
        )
        np.testing.assert_array_equal(counts.to_numpy(), theirs)


FUNCTIONS = {
    "iou_score": metrics.iou,
    "f1_score": metrics.dice,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
}


def stats(torch, smp, case):
    labels, predictions = drawn(case)
    options = {"mode": "multiclass", "num_classes": CLASSES, "ignore_index": 255}
    return smp.get_stats(*tensors(torch, predictions, labels), **options)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("case", ["random", "skewed"])
def test_data_set_scores_are_smps_where_every_class_is_there(torch, smp, case, name):
    parts, counts = stats(torch, smp, case), counted(case)
    for ours, theirs in zip(metrics.confusion_counts(counts), parts, strict=True):
        np.testing.assert_array_equal(ours, theirs.sum(0))
    for reduce, reduction in ((metrics.macro, "macro"), (metrics.micro, "micro")):
        close(reduce(FUNCTIONS[name], counts), getattr(smp, name)(*parts, reduction=reduction))
    truth = counts.to_numpy().sum(1)
    theirs = getattr(smp, name)(*parts, reduction="weighted", class_weights=truth.tolist())
    close(metrics.weighted(FUNCTIONS[name], counts), theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("case", ["random", "absent"])
def test_imagewise_scores_are_smps(torch, smp, case, name):
    """smp writes a number for absent classes, so that only its unreduced scores can be compared there."""
    labels, predictions = drawn(case)
    parts = stats(torch, smp, case)
    counts = ConfusionMatrix.per_image(CLASSES, labels=labels, predictions=predictions)
    means = ImageMeans.zero(CLASSES).update(FUNCTIONS[name], counts)
    theirs = functools.partial(getattr(smp, name), *parts, zero_division=np.nan)
    close(FUNCTIONS[name](counts), theirs(reduction=None))
    close(metrics.micro_imagewise(means), theirs(reduction="micro-imagewise"))
    if case == "random":
        close(metrics.macro_imagewise(means), theirs(reduction="macro-imagewise"))
        weights = [1.0, 2.0, 3.0, 4.0]
        off = theirs(reduction="weighted-imagewise", class_weights=weights)
        close(metrics.weighted_imagewise(means, weights), CLASSES * off)  # smp's is 1/K of it


def test_an_absent_class_is_where_smp_differs(torch, smp):
    """zero_division=1 by default: a prediction that is wrong everywhere scores 1/2 with 2 of 4 classes absent."""
    assert float(smp.iou_score(*stats(torch, smp, "wrong"), reduction="macro")) == 0.5
    assert float(metrics.mean_iou(counted("wrong"))) == 0


@pytest.mark.parametrize("case", ["random", "absent", "full"])
def test_means_over_images_are_torchmetrics(torch, segmentation, case):
    """It has no ignored pixels."""
    labels, predictions = drawn(case)
    labels = np.where(labels == 255, 0, labels)
    counts = ConfusionMatrix.per_image(CLASSES, labels=labels, predictions=predictions)
    means = ImageMeans.zero(CLASSES).update(metrics.iou, counts)
    pair = tensors(torch, predictions, labels)
    for per_class, ours in ((False, metrics.mean_of_pairs), (True, metrics.class_means)):
        theirs = segmentation.MeanIoU(CLASSES, per_class=per_class, input_format="index")
        theirs.update(*pair)
        close(np.nan_to_num(ours(means), nan=-1), theirs.compute())
    function = load("torchmetrics.functional.segmentation").mean_iou
    each = function(*pair, num_classes=CLASSES, input_format="index")
    close(metrics.mean_of_image_means(means), each.mean())


def test_huge_counts_are_scored_as_sklearn_scores_weighted_pixels(sklearn):
    """Each cell of the table is one weighted pixel; torch and smp count in float32 or run out of memory."""
    table = np.array([[10**12, 10**6, 3], [10**5, 10**7, 1], [10**4, 5, 10**3]])
    labels, predictions = np.divmod(np.arange(9), 3)
    split = [(table >> 24 * i & 0xFFFFFF).astype(np.uint32) for i in range(3)]
    counts = ConfusionMatrix(jnp.asarray(np.stack(split, -1)))
    weights = {"sample_weight": table.ravel().astype(np.float64)}
    for ours, theirs in (
        (metrics.iou, sklearn.jaccard_score),
        (metrics.precision, sklearn.precision_score),
        (metrics.recall, sklearn.recall_score),
    ):
        close(ours(counts), theirs(labels, predictions, average=None, **weights))
    close(metrics.cohen_kappa(counts), sklearn.cohen_kappa_score(labels, predictions, **weights))
    close(
        metrics.matthews_correlation(counts),
        sklearn.matthews_corrcoef(labels, predictions, **weights),
    )
