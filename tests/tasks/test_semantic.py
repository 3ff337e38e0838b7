"""Totals, scores, files and pictures of semantic segmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxseg import metrics, tasks
from jaxseg.errors import InputError
from jaxseg.tasks import Headline, Semantic
from jaxseg.tasks.semantic import SemanticTotals, _two_sum, class_ids, probabilities
from jaxseg.typing import Output


def test_totals_without_pixels_have_no_loss():
    assert np.isnan(SemanticTotals.zero(3).loss)


def test_two_sum_keeps_the_digits_of_a_long_sum():
    """Ten thousand addends: float32 alone would be off by 5e-5."""
    addends = np.random.default_rng(0).uniform(0, 1e6, 10_000).astype(np.float32)
    scan = jax.jit(lambda x: jax.lax.scan(lambda s, a: (_two_sum(s, a), None), jnp.zeros(2), x)[0])
    total = np.asarray(scan(addends), np.float64).sum()
    exact = addends.astype(np.float64).sum()
    naive = np.float32(0)
    for addend in addends:
        naive += addend
    assert abs(total / exact - 1) < 1e-9
    assert abs(naive / exact - 1) > 1e-7


def test_image_score_is_the_mean_iou_of_one_image():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (9, 7)).astype(np.uint8)
    truth[:2] = 255
    prediction = rng.integers(0, 3, (9, 7))
    counts = metrics.ConfusionMatrix.zero(3).update(
        labels=jnp.asarray(truth)[None], predictions=jnp.asarray(prediction)[None], ignore_index=255
    )
    expected = float(metrics.mean_iou(counts.to_numpy()))
    assert Semantic(3).image_score(truth, prediction) == pytest.approx(expected)
    assert np.isnan(Semantic(3).image_score(np.full((2, 2), 255), np.zeros((2, 2), int)))


def test_predictions_and_probabilities_of_one_logit():
    output = Output(jnp.array([[[[-1.0], [2.0]]]]))
    assert class_ids(output).tolist() == [[[0, 1]]]
    assert probabilities(output).shape == (1, 1, 2, 1)
    assert float(probabilities(output)[0, 0, 1, 0]) == pytest.approx(0.8808, abs=1e-4)


def test_save_writes_ids_colors_and_overlay(tmp_path):
    image = np.full((4, 6, 3), 90, np.uint8)
    prediction = np.arange(24).reshape(4, 6) % 3
    files = Semantic(3).save(image, prediction, tmp_path / "a.b")
    assert [file.name for file in files] == ["a.b.index.png", "a.b.colour.png", "a.b.overlay.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), prediction)
    colors = Semantic(3).colors
    np.testing.assert_array_equal(np.asarray(Image.open(files[1])), colors[prediction])


def test_save_of_many_classes_keeps_every_id(tmp_path):
    prediction = np.array([[0, 299]])
    files = Semantic(300).save(np.zeros((1, 2, 3), np.uint8), prediction, tmp_path / "a")
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), prediction)


def test_class_weights_of_another_number_are_refused():
    with pytest.raises(InputError, match="2 class weights for 3 classes"):
        Semantic(3).make_loss({"cross_entropy": 1.0}, class_weights=(1.0, 2.0))


def test_headline_follows_its_direction():
    iou, error = Headline("mean_iou", "mIoU"), Headline("rmse", "RMSE", higher_is_better=False)
    assert iou.is_better(0.6, 0.5)
    assert not iou.is_better(0.5, 0.5)
    assert error.is_better(0.5, 0.6)
    assert not any(headline.is_better(np.nan, 0.5) for headline in (iou, error))


def test_unknown_tasks_are_named():
    with pytest.raises(InputError, match="did you mean 'semantic'"):
        tasks.find_task("semantics")
    with pytest.raises(InputError, match="no task: it has no `from_source`"):
        tasks.find_task("math:sqrt")
