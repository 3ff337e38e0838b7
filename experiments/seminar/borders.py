"""Borders predicted by FCN-32s, 16s and 8s, U-Net and FPN on one small encoder, trained with the same settings.

The embedded set is reduced to four classes, the background and the three pairs of shapes that share a range of hues, so
that the class is easy and the border is hard.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import style
from training import Arrays, Trainer, generate, small_encoder

from jaxseg import metrics, models

SIZE, CLASSES = 128, 4
PAIRS = (0, 1, 1, 2, 2, 3, 3)
COLOURS = (style.GROUND, style.BLUE, style.ORANGE, style.GREEN)
NETWORKS = {
    "FCN-32s": models.fcn_32s,
    "FCN-16s": models.fcn_16s,
    "FCN-8s": models.fcn_8s,
    "U-Net": lambda **options: models.unet(channels=(64, 48, 32, 16, 8), **options),
    "FPN": lambda **options: models.multiscale_fpn(channels=32, **options),
}


def scores(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Returns the mIoU of the images, and their boundary IoU averaged over images and shapes."""
    labels, predictions = jnp.asarray(labels), jnp.asarray(logits.argmax(-1))
    pair = {"labels": labels, "predictions": predictions}
    counts = metrics.ConfusionMatrix.zero(CLASSES).update(**pair)
    boundary = metrics.boundary_iou(**pair, num_classes=CLASSES)
    mean = metrics.RunningMean.zero((CLASSES,)).update(boundary)
    return {
        "mean_iou": float(metrics.mean_iou(counts)),
        "boundary_iou": float(mean.value[1:].mean()),
    }


def measure(steps: int, lengths: tuple[int, int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Trains every network and returns its scores and its predictions for the test images."""
    training, test = (generate(length, SIZE, seed, PAIRS) for seed, length in enumerate(lengths))
    result, predictions = {}, {}
    for name, build in NETWORKS.items():
        model = build(num_classes=CLASSES, encoder=small_encoder(5))
        trainer = Trainer(model, "cross_entropy", steps, batch=4)
        logits = trainer.logits(trainer.run(training, 0), test[0])
        result[name] = scores(test[1], logits)
        predictions[name] = logits.argmax(-1).astype(np.uint8)
        print(name, result[name], flush=True)
    return result, predictions


def table(result: dict[str, Any]) -> str:
    """Returns the table of the page."""
    lines = ["| | mIoU | boundary IoU of the shapes |", "|---|---|---|"]
    lines += [
        f"| {name} | {row['mean_iou']:.3f} | {row['boundary_iou']:.3f} |"
        for name, row in result.items()
    ]
    return "\n".join(lines)


def plot_rows(
    arrays: Arrays, predictions: dict[str, np.ndarray], rows: list[int], names: tuple[str, ...]
):
    """Plots image, truth and predictions, with the true borders over each prediction."""
    images, labels = arrays
    figure = style.figure(1.75 * (2 + len(names)), 1.82 * len(rows) + 0.15)
    panels = figure.subplots(len(rows), 2 + len(names), squeeze=False)
    for axes, i, first in zip(panels, rows, [True] + [False] * len(rows), strict=False):
        titles = ("image", "truth", *names)
        style.picture(axes[0], images[i], titles[0] if first else "")
        style.picture(axes[1], style.painted(labels[i], COLOURS), titles[1] if first else "")
        for panel, name in zip(axes[2:], names, strict=True):
            style.picture(
                panel, style.painted(predictions[name][i], COLOURS), name if first else ""
            )
            for k in range(1, CLASSES):
                style.outline(panel, labels[i] == k, style.INK, 1.0)
    return figure


def plot_borders(
    predictions: dict[str, np.ndarray], length: int, rows: list[int], out: Path
) -> None:
    """Plots the FCNs on the same images, and FCN-8s beside U-Net and FPN."""
    arrays = generate(length, SIZE, 1, PAIRS)
    for name, networks in (
        ("fcn.png", ("FCN-32s", "FCN-16s", "FCN-8s")),
        ("decoders.png", ("FCN-8s", "U-Net", "FPN")),
    ):
        style.save(plot_rows(arrays, predictions, rows, networks), out, name)
