"""Exercise 8: cross-entropy, Jaccard and Dice loss on a class with half a percent of the pixels.

The embedded set is reduced to one class, the bars, and images with more than a small bar are left out, so that a tenth of
the images contains one. The same small U-Net with one logit is trained with each loss from each seed.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import style
from training import Arrays, Trainer, generate, small_encoder

from jaxseg import metrics, models

SIZE, CAP = 48, 0.06
CHANNELS, WIDER = (48, 32, 16, 8), (48, 32, 16, 16)
"""Channels of the steps of the U-Net's decoder, coarse to fine; the second has more channels before the logits."""
BARS = (0, 0, 0, 0, 0, 0, 1)
LOSSES = {"cross_entropy": style.BLUE, "jaccard": style.RED, "dice": style.GREEN}
NAMES = {"cross_entropy": "cross-entropy", "jaccard": "Jaccard loss", "dice": "Dice loss"}


def rare(length: int, seed: int) -> Arrays:
    """Returns those of `length` images in which bars cover at most the fraction `CAP`."""
    images, labels = generate(length, SIZE, seed, BARS)
    selected = labels.mean((1, 2)) <= CAP
    return images[selected], labels[selected]


def sweep(logits: np.ndarray, labels: np.ndarray) -> metrics.ThresholdSweep:
    """Returns counts of the bars at 256 thresholds."""
    probabilities = jnp.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), jnp.float32)
    counts = metrics.ThresholdSweep.zero(1)
    return counts.update(labels=jnp.asarray(labels), probabilities=probabilities)


def train_once(
    trainer: Trainer, loss: str, seed: int, parts: tuple[Arrays, Arrays, Arrays]
) -> dict[str, Any]:
    """Trains once and returns the IoU on the validation images during training and scores on the test images."""
    training, validation, test = parts
    curve = []

    def watch(step, state):
        if step % max(trainer.steps // 10, 1) == 0:
            counts = sweep(trainer.logits(state, validation[0]), validation[1])
            curve.append([step, float(metrics.iou(counts.confusion_counts())[128, 0])])

    state = trainer.run(training, seed, watch)
    counts = sweep(trainer.logits(state, validation[0]), validation[1])
    threshold = float(metrics.best_threshold(metrics.iou, counts).threshold[0])
    found = sweep(trainer.logits(state, test[0]), test[1]).confusion_counts()
    iou, precision, recall = (
        np.asarray(score(found))[:, 0] for score in (metrics.iou, metrics.precision, metrics.recall)
    )
    run = {
        "loss": loss,
        "seed": seed,
        "steps": trainer.steps,
        "iou": float(iou[128]),
        "precision": float(precision[128]),
        "recall": float(recall[128]),
        "threshold": threshold,
        "iou_at_threshold": float(iou[round(256 * threshold)]),
    }
    print(run, flush=True)
    return run | {"curve": curve, "iou_by_threshold": [round(float(x), 4) for x in iou[::8]]}


def network(channels: tuple[int, ...]) -> models.SegmentationModel:
    """Returns the small U-Net with one logit."""
    return models.unet(num_classes=1, encoder=small_encoder(4), channels=channels)


def measure(steps: int, seeds: int, lengths: tuple[int, int, int]) -> dict[str, Any]:
    """Trains with every loss from every seed, and with cross-entropy also three times as long and with a wider network."""
    parts = tuple(rare(length, seed) for seed, length in enumerate(lengths))
    result: dict[str, Any] = {
        "steps": steps,
        "images": [len(labels) for _, labels in parts],
        "share": [float(labels.mean()) for _, labels in parts],
        "images_with_a_bar": [float(labels.any((1, 2)).mean()) for _, labels in parts],
    }
    print(result, flush=True)
    model = network(CHANNELS)
    trainers = {loss: Trainer(model, loss, steps) for loss in LOSSES}
    result["runs"] = [
        train_once(trainer, loss, seed, parts)
        for loss, trainer in trainers.items()
        for seed in range(seeds)
    ]
    longer = Trainer(model, "cross_entropy", 3 * steps)
    result["longer"] = train_once(longer, "cross_entropy", 0, parts)
    wider = Trainer(network(WIDER), "cross_entropy", steps)
    result["wider"] = train_once(wider, "cross_entropy", 0, parts)
    return result


def spread(values: list[float]) -> str:
    """Formats the mean and the range of values."""
    return f"{np.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def table(result: dict[str, Any]) -> str:
    """Returns the table of the page."""
    head = "| loss | IoU | precision | recall | IoU, threshold chosen |"
    lines = [head, "|---|---|---|---|---|"]
    for loss in LOSSES:
        runs = [run for run in result["runs"] if run["loss"] == loss]
        names = ("iou", "precision", "recall", "iou_at_threshold")
        columns = [[run[name] for run in runs] for name in names]
        cells = " | ".join(spread(values) for values in columns)
        lines.append(f"| {NAMES[loss]} | {cells} |")
    return "\n".join(lines)


def plot_curves(result: dict[str, Any], out: Path) -> None:
    """Plots the IoU of the bars during training, and by threshold afterwards."""
    figure = style.figure(8.6, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for loss, colour in LOSSES.items():
        runs = [run for run in result["runs"] if run["loss"] == loss]
        curves = np.array([run["curve"] for run in runs])
        thresholds = np.arange(0, 256, 8) / 256
        swept = np.array([run["iou_by_threshold"] for run in runs])
        for axes, x, ys in (
            (left, curves[0, :, 0], np.nan_to_num(curves[:, :, 1])),
            (right, thresholds, swept),
        ):
            for y in ys:
                axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.55)
            axes.plot(x, ys.mean(0), color=colour, linewidth=2.4, label=NAMES[loss])
    left.set(xlabel="step", ylabel="IoU of the bars", ylim=(0, 1), xlim=(0, result["steps"]))
    left.set_title("validation images, while training", loc="left")
    right.set(xlabel="threshold of the probability", xlim=(0, 1))
    right.set_title("test images, by threshold", loc="left")
    left.legend(loc="upper left")
    style.save(figure, out, "rare.svg")
