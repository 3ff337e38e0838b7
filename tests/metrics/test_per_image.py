import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.metrics import ConfusionMatrix, ImageMeans, MultilabelCounts, RunningMean

CLASSES = 4


def drawn(seed=0, images=6):
    """Class 3 is in one image alone, class 2 is nowhere; the last image is ignored."""
    rng = np.random.default_rng(seed)
    shape = (images, 5, 6)
    labels, predictions = rng.integers(0, 2, shape), rng.integers(0, 2, shape)
    labels[1, 0], predictions[1, 0, 1:] = 3, 3
    labels[rng.random(shape) < 0.1] = 255
    labels[-1] = 255
    return labels, predictions


def one_by_one(labels, predictions, dice=False):
    """`[N, K]` scores, NaN where a class is neither in truth nor in prediction of an image."""
    rows = []
    for true, predicted in zip(labels, predictions, strict=True):
        valid = true != 255
        for c in range(CLASSES):
            t, p = (true == c) & valid, (predicted == c) & valid
            both, either = (t & p).sum(), (t | p).sum()
            score = (2 * both, either + both) if dice else (both, either)
            rows.append(score[0] / score[1] if either else np.nan)
    return np.reshape(rows, (-1, CLASSES))


@functools.cache
def updated(score):
    return jax.jit(
        lambda means, labels, predictions: means.update(
            score, ConfusionMatrix.per_image(CLASSES, labels=labels, predictions=predictions)
        )
    )


@pytest.fixture
def means():
    """Of IoU, in two batches."""
    labels, predictions = drawn()
    means = ImageMeans.zero(CLASSES)
    for part in (np.s_[:3], np.s_[3:]):
        means = updated(metrics.iou)(means, labels[part], predictions[part])
    return means


def test_every_mean_is_that_of_its_formula(means):
    scores = one_by_one(*drawn())
    present = scores[:, [0, 1, 3]]
    expected = {
        metrics.class_means: [*np.nanmean(scores[:5, :2], 0), np.nan, scores[1, 3]],
        metrics.macro_imagewise: np.nanmean(present[:5], 0).mean(),
        metrics.foreground_per_case: np.nanmean(present[:5, 1:], 0).mean(),
        metrics.mean_of_image_means: np.nanmean(present[:5], 1).mean(),
        metrics.mean_of_pairs: np.nanmean(scores),
        functools.partial(metrics.weighted_imagewise, class_weights=[1, 2, 50, 3]): (
            np.nanmean(present[:5], 0) @ [1, 2, 3] / 6
        ),
    }
    for function, value in expected.items():
        np.testing.assert_allclose(function(means), value, rtol=0, atol=1e-6)
    values = [float(function(means)) for function in list(expected)[1:]]
    assert len({round(value, 4) for value in values}) == len(values)  # they are different numbers


def test_micro_imagewise_pools_the_classes_of_an_image(means):
    labels, predictions = drawn()
    valid = labels != 255
    right = ((labels == predictions) & valid).sum((1, 2))[:5]
    pixels = valid.sum((1, 2))[:5]
    expected = (right / (2 * pixels - right)).mean()
    np.testing.assert_allclose(metrics.micro_imagewise(means), expected, rtol=0, atol=1e-6)


def test_foreground_per_case_is_the_one_of_nnu_net():
    """Dice of each case and class, nan where absent in both; mean over cases, then over all but the background."""
    labels, predictions = drawn(3)
    means = updated(metrics.dice)(ImageMeans.zero(CLASSES), labels, predictions)
    scores = one_by_one(labels, predictions, dice=True)
    per_class = [np.nanmean(scores[:, c]) for c in (1, 3)]
    np.testing.assert_allclose(metrics.foreground_per_case(means), np.mean(per_class), atol=1e-6)


@pytest.mark.slow
def test_the_mean_over_images_is_not_the_score_of_the_data_set():
    """992 of 1000 pixels found, all in one image (torchmetrics' MeanIoU says 0.5)."""
    labels = np.zeros((2, 40, 40), np.int32)
    labels[0].ravel()[:992] = 1
    labels[1].ravel()[:8] = 1
    predictions = labels.copy()
    predictions[1] = 0
    counts = ConfusionMatrix.per_image(2, labels=labels, predictions=predictions)
    means = ImageMeans.zero(2).update(metrics.iou, counts)
    assert float(metrics.class_means(means)[1]) == 0.5
    together = ConfusionMatrix.zero(2).update(labels=labels, predictions=predictions)
    assert float(metrics.iou(together)[1]) == pytest.approx(0.992)


@settings(max_examples=25)
@given(st.permutations(range(6)), st.integers(1, 5), st.integers(0, 50))
def test_neither_order_nor_batches_matter(order, cut, seed):
    labels, predictions = drawn(seed)
    update = updated(metrics.iou)
    whole = update(ImageMeans.zero(CLASSES), labels, predictions)
    labels, predictions = labels[list(order)], predictions[list(order)]
    # Ignored images keep every batch at one shape.
    fill = [np.full((6, *labels.shape[1:]), 255), np.zeros((6, *labels.shape[1:]), int)]
    parts = ImageMeans.zero(CLASSES)
    for rows in (np.s_[:cut], np.s_[cut:]):
        pair = [
            np.concatenate([x[rows], f])[:6]
            for x, f in zip((labels, predictions), fill, strict=True)
        ]
        parts = update(parts, *pair)
    for function in (
        metrics.class_means,
        metrics.macro_imagewise,
        metrics.mean_of_image_means,
        metrics.micro_imagewise,
    ):
        np.testing.assert_allclose(function(parts), function(whole), rtol=0, atol=2e-7)


@pytest.mark.slow
def test_several_labels_a_pixel():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 2, (2, 3, 4, 4, CLASSES))
    counts = MultilabelCounts.per_image(labels=labels, predictions=predictions)
    means = ImageMeans.zero(CLASSES).update(metrics.iou, counts)
    both, either = ((op(labels, predictions)).sum((1, 2)) for op in (np.minimum, np.maximum))
    np.testing.assert_allclose(metrics.class_means(means), (both / either).mean(0), atol=1e-6)
    np.testing.assert_allclose(
        metrics.micro_imagewise(means), (both.sum(1) / either.sum(1)).mean(), atol=1e-6
    )


def test_a_mean_of_many_values_keeps_its_digits():
    """A hundred thousand images of 0.1, one after the other: float32 alone loses the fifth digit."""

    def add(mean, values):
        return mean.update(values), None

    values = jnp.full((100_000, 1), 0.1)
    mean = jax.jit(lambda values: jax.lax.scan(add, RunningMean.zero(), values)[0])(values)
    naive = jax.jit(lambda v: jax.lax.scan(lambda s, x: (s + x.sum(), None), 0.0, v)[0])(values)
    assert abs(float(naive) / 1e5 - 0.1) > 1e-6
    assert abs(float(mean.value) - 0.1) < 1e-8
    assert int(mean.numbers) == 100_000


def test_large_and_infinite_distances():
    mean = RunningMean.zero((2,)).update(jnp.array([[1e6, jnp.inf], [3.0, 1.0]]))
    mean = mean + RunningMean.zero((2,)).update(jnp.array([[jnp.nan, 2.0]]))
    assert mean.value.tolist() == [500001.5, np.inf]
    assert mean.numbers.tolist() == [2, 3]


def test_boundary_scores_average_as_well():
    labels, predictions = drawn()
    options = {"labels": labels, "predictions": predictions, "num_classes": 2}
    scores = metrics.boundary_iou(**options)
    mean = RunningMean.zero((2,)).update(scores)
    np.testing.assert_allclose(mean.value, np.nanmean(scores, 0), atol=1e-6)


def test_without_images_there_is_no_mean():
    for function in (
        metrics.class_means,
        metrics.macro_imagewise,
        metrics.foreground_per_case,
        metrics.mean_of_image_means,
        metrics.mean_of_pairs,
        metrics.micro_imagewise,
    ):
        assert np.isnan(function(ImageMeans.zero(3))).all()


def test_bad_input_is_named():
    means = ImageMeans.zero(3)
    labels = jnp.zeros((1, 2, 2), jnp.int32)
    counts = ConfusionMatrix.zero(3).update(labels=labels, predictions=labels)
    with pytest.raises(InputError, match="not those of single images"):
        means.update(metrics.iou, counts)
    with pytest.raises(InputError, match="do not fit"):
        means.update(metrics.iou, ConfusionMatrix.per_image(2, labels=labels, predictions=labels))
    with pytest.raises(InputError, match="do not fit"):
        RunningMean.zero((3,)).update(jnp.zeros((5, 2)))
    with pytest.raises(InputError, match="cannot be added"):
        RunningMean.zero((3,)) + RunningMean.zero()
    with pytest.raises(InputError, match=r"class_weights have shape \(2,\)"):
        metrics.weighted_imagewise(means, [1.0, 2.0])
