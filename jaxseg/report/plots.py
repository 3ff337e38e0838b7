"""Figures of threshold sweeps and of calibration, drawn by matplotlib: `figure.savefig("curves.svg")` or a notebook.

Every function returns a `matplotlib.figure.Figure` of its own and touches no global state. Up to eight classes have a
colour and a name each; of more, all are drawn faintly and their mean in full.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.metrics import Calibration, ThresholdSweep

_TEXT, _QUIET, _RULE = "#1b1f27", "#667080", "#e4e7ec"
_COLORS = (
    *("#2f6feb", "#e08a2e", "#1f9d74", "#c2478d"),
    *("#7a5cd6", "#b3961f", "#2aa1b3", "#8a6a55"),
)
_FONT = {"family": "sans-serif", "size": 9.5}


def threshold_figure(sweep: ThresholdSweep, *, classes: Sequence[str] = ()) -> Figure:
    """IoU and Dice of each class against the threshold, the best ones marked.

    Args:
        sweep: Of any number of pixels.
        classes: K names; numbers by default, and for one sigmoid none.

    Raises:
        InputError: There are not as many names as classes.

    >>> len(threshold_figure(metrics.ThresholdSweep.zero(1)).axes)
    1
    """
    sweep, names = jax.device_get(sweep), _names(sweep, classes)
    parts, thresholds = sweep.confusion_counts(), sweep.thresholds
    scores = {"IoU": np.asarray(metrics.iou(parts)), "Dice": np.asarray(metrics.dice(parts))}
    alone = len(names) == 1
    figure, panels = _figure(1 if alone else 2)
    for i, (kind, values) in enumerate(scores.items()):
        axes = panels[0 if alone else i]
        names_here = [
            f"{name or kind}  {_best(thresholds, y)}"
            for name, y in zip(names, values.T, strict=True)
        ]
        _lines(
            axes, np.broadcast_to(thresholds[:, None], values.shape), values, names_here, first=i
        )
        if len(names) <= len(_COLORS):
            _marks(axes, thresholds, values, first=i if alone else 0)
        axes.set(xlabel="threshold", ylabel="" if alone else kind)
    for axes in panels:
        _unit(axes)
        _legend(axes, "upper center", below=True)
    return figure


def precision_recall_figure(sweep: ThresholdSweep, *, classes: Sequence[str] = ()) -> Figure:
    """Precision over recall of each class, with lines of equal Dice.

    Args:
        sweep: Of any number of pixels.
        classes: K names; numbers by default, and for one sigmoid none.

    Raises:
        InputError: There are not as many names as classes.

    >>> precision_recall_figure(metrics.ThresholdSweep.zero(3)).axes[0].get_xlabel()
    'recall'
    """
    sweep, names = jax.device_get(sweep), _names(sweep, classes)
    figure, (axes,) = _figure(1, square=True)
    for dice in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(dice / (2 - dice), 1, 200)
        precision = dice * recall / (2 * recall - dice)
        axes.plot(recall, precision, color=_RULE, linewidth=1, zorder=0)
        axes.annotate(
            f"Dice {dice:g}",
            (1, dice / (2 - dice)),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=_QUIET,
            alpha=0.8,
        )
    curve = metrics.precision_recall_curve(sweep)
    area = metrics.average_precision(sweep)
    _lines(axes, curve.x, curve.y, _with_values(names, "AP", area))
    axes.set(xlabel="recall", ylabel="precision")
    _unit(axes)
    _legend(axes, "lower left")
    return figure


def roc_figure(sweep: ThresholdSweep, *, classes: Sequence[str] = ()) -> Figure:
    """The true positive rate over the false positive rate of each class.

    Args:
        sweep: Of any number of pixels.
        classes: K names; numbers by default, and for one sigmoid none.

    Raises:
        InputError: There are not as many names as classes.

    >>> roc_figure(metrics.ThresholdSweep.zero(1)).axes[0].get_ylabel()
    'true positive rate'
    """
    sweep, names = jax.device_get(sweep), _names(sweep, classes)
    figure, (axes,) = _figure(1, square=True)
    axes.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=(0, (2, 3)), zorder=0)
    curve = metrics.roc_curve(sweep)
    area = metrics.area_under_roc(sweep)
    _lines(axes, curve.x, curve.y, _with_values(names, "area", area))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    _unit(axes)
    _legend(axes, "lower right")
    return figure


def reliability_figure(calibration: Calibration) -> Figure:
    """The reliability diagram: accuracy against confidence, and below it which share of pixels has which confidence.

    Bars that end below the diagonal are of pixels that are less often right than they claim.

    Args:
        calibration: Of any number of pixels.

    >>> len(reliability_figure(metrics.Calibration.zero(2)).axes)
    2
    """
    calibration = jax.device_get(calibration)
    diagram = metrics.reliability(calibration)
    error = float(metrics.expected_calibration_error(calibration))
    figure = Figure(figsize=(4.6, 5.2), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    left, width = diagram.edges[:-1], np.diff(diagram.edges)
    present = diagram.pixels > 0
    bars: dict[str, Any] = {"align": "edge", "linewidth": 0}
    accuracy, confidence = diagram.accuracy[present], diagram.confidence[present]
    gap = width[0] * 0.06
    place, wide = left[present] + gap, width[present] - 2 * gap
    upper.bar(place, accuracy, wide, color=_COLORS[0], alpha=0.85, label="accuracy", **bars)
    upper.bar(
        place,
        confidence - accuracy,
        wide,
        accuracy,
        color=_COLORS[1],
        alpha=0.35,
        label="confidence less accuracy",
        **bars,
    )
    upper.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=(0, (2, 3)))
    upper.set(ylabel="accuracy")
    upper.set_title(
        f"expected calibration error {error:.4f}" if np.isfinite(error) else "no pixels",
        loc="left",
        color=_TEXT,
        **_FONT,
    )
    total = max(diagram.pixels.sum(), 1)
    lower.bar(left + gap, diagram.pixels / total, width - 2 * gap, color=_QUIET, alpha=0.6, **bars)
    lower.set(xlabel="confidence", ylabel="share", ylim=(0, None))
    _unit(upper)
    _axes(lower)
    _legend(upper, "upper left")
    figure.align_ylabels()
    return figure


def _names(sweep: ThresholdSweep, classes: Sequence[str]) -> list[str]:
    if classes and len(classes) != sweep.num_classes:
        raise InputError(f"{len(classes)} names for {sweep.num_classes} classes")
    if classes:
        return list(classes)
    return [""] if sweep.num_classes == 1 else [f"class {c}" for c in range(sweep.num_classes)]


def _with_values(names: list[str], kind: str, values: np.ndarray) -> list[str]:
    shown = ["none" if np.isnan(value) else f"{value:.3f}" for value in values]
    return [f"{name}  {kind} {value}".strip() for name, value in zip(names, shown, strict=True)]


def _figure(panels: int, *, square: bool = False) -> tuple[Figure, list[Axes]]:
    size = (4.6, 4.6) if square else (5.2 if panels == 1 else 8.4, 3.9)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _lines(
    axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], *, first: int = 0
) -> None:
    """The columns of `[n, K]`, points that are not numbers left out."""
    many = y.shape[1] > len(_COLORS)
    for c in range(y.shape[1]):
        color = _QUIET if many else _COLORS[(first if len(names) == 1 else 0) + c]
        style: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.35} if many else {"linewidth": 1.8}
        shown = ~np.isnan(y[:, c]) & ~np.isnan(x[:, c])
        label = None if many else names[c]
        axes.plot(x[shown, c], y[shown, c], color=color, label=label, **style)
    if many:
        shown = ~np.isnan(x).all(1) & ~np.isnan(y).all(1)
        axes.plot(
            np.nanmean(x[shown], 1),
            np.nanmean(y[shown], 1),
            color=_COLORS[0],
            linewidth=2,
            label=f"mean of {y.shape[1]} classes",
        )


def _best(thresholds: np.ndarray, values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "none"
    best = int(np.nanargmax(values))
    return f"{values[best]:.3f} at {thresholds[best]:.2f}"


def _marks(axes: Axes, x: np.ndarray, y: np.ndarray, *, first: int) -> None:
    """A dot on the highest point of each column."""
    for c, values in enumerate(y.T):
        if not np.isnan(values).all():
            best = int(np.nanargmax(values))
            style = {"markersize": 6.5, "markeredgecolor": "white", "zorder": 5, "clip_on": False}
            axes.plot(x[best], values[best], "o", color=_COLORS[first + c], **style)


def _unit(axes: Axes) -> None:
    """An axis from 0 to 1 both ways."""
    axes.set(xlim=(0, 1), ylim=(0, 1.04))
    axes.set_yticks(np.linspace(0, 1, 6))
    _axes(axes)


def _axes(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_RULE)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_QUIET, labelsize=8.5, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_TEXT, **_FONT)


def _legend(axes: Axes, place: Any, *, below: bool = False) -> None:
    number = len(axes.get_legend_handles_labels()[1])
    if number:
        outside: dict[str, Any] = (
            {"bbox_to_anchor": (0.5, -0.16), "ncols": 2 if number > 1 else 1} if below else {}
        )
        axes.legend(
            loc=place,
            frameon=False,
            fontsize=8.5,
            labelcolor=_TEXT,
            handlelength=1.4,
            borderpad=0.2,
            **outside,
        )
