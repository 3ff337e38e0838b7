import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionMatrix

SCALARS = [
    metrics.pixel_accuracy,
    metrics.mean_accuracy,
    metrics.mean_iou,
    metrics.mean_dice,
    metrics.frequency_weighted_iou,
]
SCORES = [*SCALARS, metrics.iou, metrics.dice]


def counts_of(labels, predictions, num_classes):
    counts = ConfusionMatrix.zero(num_classes)
    return counts.update(labels=jnp.asarray(labels), predictions=jnp.asarray(predictions))


def by_sets(labels, predictions, num_classes):
    """Every score from sets of pixels, class by class."""
    pixels = [
        (i, t, p)
        for i, (t, p) in enumerate(zip(labels.ravel(), predictions.ravel(), strict=True))
        if t != 255
    ]
    iou, dice, recall, weighted = [], [], [], 0.0
    for c in range(num_classes):
        true = {i for i, t, _ in pixels if t == c}
        predicted = {i for i, _, p in pixels if p == c}
        both, either = len(true & predicted), len(true | predicted)
        iou.append(both / either if either else np.nan)
        dice.append(2 * both / (len(true) + len(predicted)) if either else np.nan)
        recall.append(both / len(true) if true else np.nan)
        weighted += len(true) / len(pixels) * (iou[-1] if true else 0)
    return {
        "pixel_accuracy": np.mean([t == p for _, t, p in pixels]),
        "mean_accuracy": np.nanmean(recall),
        "iou": iou,
        "mean_iou": np.nanmean(iou),
        "dice": dice,
        "mean_dice": np.nanmean(dice),
        "frequency_weighted_iou": weighted,
    }


def test_scores_are_those_of_sets_of_pixels():
    """Class 3 is absent, class 4 is predicted but never true."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 255], (2, 8, 8))
    predictions = rng.choice([0, 1, 2, 4], (2, 8, 8))
    counts = counts_of(labels, predictions, 5)
    for name, expected in by_sets(labels, predictions, 5).items():
        score = getattr(metrics, name)
        np.testing.assert_allclose(score(counts.to_numpy()), expected, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(score(counts), expected, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(jax.jit(score)(counts), expected, rtol=1e-6, err_msg=name)


def test_an_absent_class_is_neither_right_nor_wrong():
    counts = np.array([[5, 0, 0], [0, 0, 0], [0, 0, 5]])
    np.testing.assert_array_equal(metrics.iou(counts), [1, np.nan, 1])
    assert (
        metrics.mean_iou(counts) == metrics.mean_dice(counts) == metrics.mean_accuracy(counts) == 1
    )


def test_a_class_that_is_only_predicted_scores_zero():
    counts = np.array([[4, 1], [0, 0]])
    np.testing.assert_array_equal(metrics.iou(counts), [0.8, 0])
    assert metrics.mean_iou(counts) == 0.4
    assert metrics.mean_accuracy(counts) == 0.8


def test_a_prediction_that_is_wrong_everywhere_scores_zero():
    """With 8 of 10 classes absent, counting each of those as 1 makes it 0.80 (smp's zero_division=1)."""
    labels = np.array([[[0, 1, 0, 1]]])
    counts = counts_of(labels, 1 - labels, 10).to_numpy()
    assert (
        metrics.mean_iou(counts) == metrics.mean_dice(counts) == metrics.pixel_accuracy(counts) == 0
    )
    assert np.isnan(metrics.iou(counts)).sum() == 8
    smp = np.where(np.isnan(metrics.iou(counts)), 1, metrics.iou(counts)).mean()
    assert smp == 0.8


def test_scores_are_those_of_the_data_set_not_the_mean_of_images():
    """992 of 1000 pixels found, all in one image: IoU is 0.992; the mean of images is 0.5 (torchmetrics' MeanIoU)."""
    labels = np.zeros((2, 40, 40), np.int32)
    labels[0].ravel()[:992] = 1
    labels[1].ravel()[:8] = 1
    predictions = labels.copy()
    predictions[1] = 0
    together = counts_of(labels, predictions, 2)
    one, other = (counts_of(labels[i : i + 1], predictions[i : i + 1], 2) for i in range(2))
    assert metrics.iou((one + other).to_numpy())[1] == metrics.iou(together.to_numpy())[1] == 0.992
    assert np.mean([metrics.iou(c.to_numpy())[1] for c in (one, other)]) == 0.5


def test_mean_is_over_classes_not_over_pixels():
    """Micro-averaged IoU would be 98 / 102."""
    counts = np.array([[98, 0], [2, 0]])
    assert metrics.mean_iou(counts) == (98 / 100 + 0) / 2


@pytest.mark.parametrize("score", SCALARS)
def test_without_pixels_there_is_no_score(score):
    for counts in (
        np.zeros((3, 3), np.int64),
        ConfusionMatrix.zero(3),
        jnp.zeros((3, 3), jnp.int32),
    ):
        result = score(counts)
        assert np.isnan(result)
        assert np.shape(result) == ()


@pytest.mark.parametrize("score", SCORES)
def test_numpy_counts_are_scored_in_float64_on_the_host(score):
    counts = np.array([[2**60, 2**31 + 1], [3, 2**53 + 1]])
    result = score(counts)
    assert isinstance(result, np.ndarray | np.floating)
    assert result.dtype == np.float64


@pytest.mark.parametrize("score", SCORES)
def test_device_counts_are_scored_on_the_device(score):
    for counts in (jnp.array([[3, 1], [0, 4]]), counts_of([[[0, 1]]], [[[0, 0]]], 2)):
        result = score(counts)
        assert isinstance(result, jax.Array)
        assert result.dtype == jnp.float32


def test_large_counts_keep_float32s_digits():
    limbs = np.zeros((2, 2, 3), np.uint32)
    limbs[..., 2] = [[3, 1], [1, 3]]  # times 2**48
    np.testing.assert_allclose(
        metrics.iou(ConfusionMatrix(jnp.asarray(limbs))), [0.6, 0.6], rtol=1e-6
    )


def test_bad_input_is_named():
    for score in SCORES:
        with pytest.raises(InputError, match=r"\[K, K\].*\(2, 3\)"):
            score(np.zeros((2, 3), np.int64))
