import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.metrics import Calibration, ThresholdSweep
from jaxseg.report import plots

FIGURES = [plots.threshold_figure, plots.precision_recall_figure, plots.roc_figure]


def swept(num_classes, multilabel=False):
    rng = np.random.default_rng(0)
    probabilities = rng.random((1, 20, 20, num_classes)).astype(np.float32)
    labels = (rng.random(probabilities.shape) < probabilities).astype(np.int32)
    if not multilabel:
        labels = labels[..., 0] if num_classes == 1 else probabilities.argmax(-1)
    zero = ThresholdSweep.zero(num_classes, thresholds=64)
    return zero.update(labels=labels, probabilities=probabilities)


def labels_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def rendered(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("num_classes", [1, 3, 9])
@pytest.mark.sample(2)
def test_figures_are_drawn_for_any_number_of_classes(figure, num_classes):
    drawn = figure(swept(num_classes, multilabel=True))
    assert rendered(drawn).startswith(b"\x89PNG")
    for axes in drawn.axes:
        alone = 2 if figure is plots.threshold_figure else 1
        assert len(labels_of(axes)) == {1: alone, 3: 3, 9: 1}[num_classes]


@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_counted_is_drawn_without_a_line(figure):
    for num_classes in (1, 2):
        assert rendered(figure(ThresholdSweep.zero(num_classes))).startswith(b"\x89PNG")


def test_the_lines_are_the_scores():
    sweep = swept(1)
    (axes,) = plots.threshold_figure(sweep).axes
    iou, best, dice, _ = axes.lines
    expected = metrics.iou(jax.device_get(sweep).confusion_counts())[:, 0]
    np.testing.assert_array_equal(iou.get_ydata(), expected)
    np.testing.assert_array_equal(iou.get_xdata(), sweep.thresholds)
    assert best.get_ydata() == expected.max()
    assert (dice.get_ydata() >= iou.get_ydata()).all()
    assert (
        labels_of(axes)[0]
        == f"IoU  {expected.max():.3f} at {sweep.thresholds[expected.argmax()]:.2f}"
    )


@pytest.mark.slow
def test_areas_and_names_are_in_the_legend():
    sweep, names = swept(3), ("road", "car", "sky")
    area = metrics.area_under_roc(sweep)
    (axes,) = plots.roc_figure(sweep, classes=names).axes
    assert labels_of(axes) == [f"{n}  area {a:.3f}" for n, a in zip(names, area, strict=True)]
    precision = metrics.average_precision(sweep)
    (axes,) = plots.precision_recall_figure(sweep, classes=names).axes
    assert labels_of(axes) == [f"{n}  AP {a:.3f}" for n, a in zip(names, precision, strict=True)]


@pytest.mark.slow
def test_the_reliability_diagram():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 2, (1, 30, 30, 4)), jnp.float32)
    sums = Calibration.zero(4, bins=10).update(
        logits=logits, labels=rng.integers(0, 4, (1, 30, 30))
    )
    figure = plots.reliability_figure(sums)
    upper, lower = figure.axes
    diagram = metrics.reliability(jax.device_get(sums))
    present = ~np.isnan(diagram.accuracy)
    heights = [bar.get_height() for bar in upper.patches]
    np.testing.assert_allclose(heights[: present.sum()], diagram.accuracy[present])
    tops = [bar.get_y() + bar.get_height() for bar in upper.patches[present.sum() :]]
    np.testing.assert_allclose(tops, diagram.confidence[present])
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(1)
    error = float(metrics.expected_calibration_error(sums))
    assert upper.get_title(loc="left") == f"expected calibration error {error:.4f}"
    assert rendered(figure).startswith(b"\x89PNG")
    assert rendered(plots.reliability_figure(Calibration.zero(4))).startswith(b"\x89PNG")


def test_names_that_do_not_fit_are_refused():
    for figure in FIGURES:
        with pytest.raises(InputError, match="2 names for 3 classes"):
            figure(ThresholdSweep.zero(3), classes=("a", "b"))
