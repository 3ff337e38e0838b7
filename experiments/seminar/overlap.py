"""Figures of exercises 1 to 9: the parts of an overlap, IoU by size, Dice by IoU, and the steps of IoU."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import style
from matplotlib.patches import Rectangle

from jaxseg import losses, metrics


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Returns the two masks of the page: 24 pixels of truth, 20 of a prediction, 12 of both."""
    y_gt, y_pred = np.zeros((2, 8, 12), int)
    y_gt[2:6, 2:8] = 1
    y_pred[3:7, 4:9] = 1
    return y_pred, y_gt


def plot_overlap(out: Path) -> None:
    """Plots the parts of an overlap."""
    y_pred, y_gt = masks()
    figure = style.figure(6.4, 3.6)
    axes = figure.subplots()
    # 0 TN, 1 FP, 2 FN, 3 TP
    colours = (style.GROUND, style.ORANGE, style.BLUE, style.GREEN)
    style.picture(axes, style.painted(y_pred + 2 * y_gt, colours))
    for k in range(1, 12):
        axes.axvline(k - 0.5, color="white", linewidth=0.8, zorder=2)
    for k in range(1, 8):
        axes.axhline(k - 0.5, color="white", linewidth=0.8, zorder=2)
    for mask, name, position, align in (
        (y_gt, "y_gt, the truth", (1.5, 1.2), "left"),
        (y_pred, "y_pred, the prediction", (8.5, 6.8), "right"),
    ):
        rows, columns = np.nonzero(mask)
        corner = (columns.min() - 0.5, rows.min() - 0.5)
        size = (np.ptp(columns) + 1, np.ptp(rows) + 1)
        line = "-" if align == "left" else (0, (4, 2))
        axes.add_patch(
            Rectangle(
                corner,
                *size,
                fill=False,
                edgecolor=style.INK,
                linewidth=2.4,
                linestyle=line,
                zorder=4,
            )
        )
        axes.text(*position, name, ha=align, va="center", fontsize=10)
    counts = [int((y_pred + 2 * y_gt == part).sum()) for part in range(4)]
    for name, count, position, colour in (
        ("TN", counts[0], (10.5, 0.9), style.INK),
        ("FP", counts[1], (6.0, 6.0), style.INK),
        ("FN", counts[2], (2.5, 3.5), "white"),
        ("TP", counts[3], (5.5, 4.0), "white"),
    ):
        axes.text(
            *position,
            f"{name} {count}",
            color=colour,
            ha="center",
            va="center",
            fontsize=12,
            weight="bold",
        )
    style.save(figure, out, "overlap.svg")


def plot_curves(out: Path) -> None:
    """Plots the IoU of a square whose border is one pixel off, by its size, and Dice by IoU."""
    figure = style.figure(8.6, 3.3)
    left, right = figure.subplots(1, 2)
    side = np.arange(4, 129)
    for name, iou, colour in (
        ("moved by one pixel", (side - 1) / (side + 1), style.BLUE),
        ("one pixel too small all around", ((side - 2) / side) ** 2, style.RED),
    ):
        left.plot(side, iou, color=colour, label=name)
    left.set(
        xscale="log",
        xlabel="side of the square in pixels",
        ylabel="IoU",
        ylim=(0, 1.02),
        xlim=(4, 128),
    )
    left.set_xticks([4, 8, 16, 32, 64, 128], ["4", "8", "16", "32", "64", "128"])
    left.minorticks_off()
    left.set_title("the same error costs a small object more", loc="left")
    left.legend(loc="lower right")
    iou = np.linspace(0, 1, 201)
    right.plot(iou, iou, color=style.QUIET, linewidth=1, linestyle=(0, (3, 3)))
    right.plot(iou, 2 * iou / (1 + iou), color=style.GREEN)
    best = np.sqrt(2) - 1
    right.plot([best, best], [best, 2 * best / (1 + best)], color=style.INK, linewidth=1.2)
    right.annotate(
        "largest gap\n3 - 2√2 ≈ 0.17",
        (best, 0.5 * (best + 2 * best / (1 + best))),
        xytext=(0.58, 0.3),
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": style.QUIET, "linewidth": 0.8},
    )
    right.set(xlabel="IoU", ylabel="Dice", xlim=(0, 1), ylim=(0, 1.02))
    right.set_title("Dice = 2 IoU / (1 + IoU)", loc="left")
    style.save(figure, out, "curves.svg")


def plot_staircase(out: Path) -> None:
    """Plots the IoU of the thresholded mask and of the probabilities as a number is added to all logits."""
    rng = np.random.default_rng(3)
    labels = jnp.asarray(np.repeat([[0, 1]], 12, axis=1).reshape(1, 1, 24))
    logits = jnp.asarray(rng.normal(2.2 * np.asarray(labels) - 1.1, 1.4), jnp.float32)[..., None]
    shifts = np.linspace(-5, 5, 1001)

    def hard(shift):
        predictions = metrics.labels_from_logits(logits + shift)
        return metrics.iou(
            metrics.ConfusionMatrix.zero(1).update(labels=labels, predictions=predictions)
        )[1]

    def soft(shift):
        return 1 - losses.jaccard_loss(logits + shift, labels)

    offsets = jnp.asarray(shifts, jnp.float32)
    figure = style.figure(8.6, 3.2)
    left, right = figure.subplots(1, 2)
    for name, function, colour, width in (
        ("of the thresholded mask", hard, style.RED, 1.6),
        ("of the probabilities (soft)", soft, style.BLUE, 2.2),
    ):
        left.plot(shifts, jax.vmap(function)(offsets), color=colour, label=name, linewidth=width)
    left.set(xlabel="added to every logit", ylabel="IoU", xlim=(-5, 5), ylim=(0, 1.02))
    left.set_title("IoU", loc="left")
    left.legend(loc="upper left")
    slope = jax.vmap(jax.grad(soft))(offsets)
    right.plot(shifts, 0 * shifts, color=style.RED, linewidth=1.6)
    right.plot(shifts, slope, color=style.BLUE, linewidth=2.2)
    right.set(xlabel="added to every logit", xlim=(-5, 5))
    right.set_title("its derivative, where there is one", loc="left")
    style.save(figure, out, "staircase.svg")


def plot(out: Path) -> None:
    """Plots all figures."""
    plot_overlap(out)
    plot_curves(out)
    plot_staircase(out)
