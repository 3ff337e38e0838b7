"""Exercise 8: cross-entropy, Jaccard and Dice loss on a class that has half a percent of the pixels.

The embedded set with one class, the bars; images with more than a small bar are left out, so that a tenth of the images
holds one, and the rest none. The same small U-Net with one logit is trained with each loss from each seed.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import style
from training import Arrays, Trainer, draw, small_encoder

from jaxseg import metrics, models

SIZE, CAP = 48, 0.06
CHANNELS, WIDER = (48, 32, 16, 8), (48, 32, 16, 16)
"""Channels of the steps of the U-Net's decoder, coarse to fine, and with more room before the logits."""
BARS = (0, 0, 0, 0, 0, 0, 1)
LOSSES = {"cross_entropy": style.BLUE, "jaccard": style.RED, "dice": style.GREEN}
NAMES = {"cross_entropy": "cross-entropy", "jaccard": "Jaccard loss", "dice": "Dice loss"}


def rare(length: int, seed: int) -> Arrays:
    """Of `length` images those of which bars have at most `CAP`."""
    images, labels = draw(length, SIZE, seed, BARS)
    kept = labels.mean((1, 2)) <= CAP
    return images[kept], labels[kept]


def sweep(logits: np.ndarray, labels: np.ndarray) -> metrics.ThresholdSweep:
    """Counts of the bars at 256 thresholds."""
    probabilities = jnp.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), jnp.float32)
    counts = metrics.ThresholdSweep.zero(1)
    return counts.update(labels=jnp.asarray(labels), probabilities=probabilities)


def one(
    trainer: Trainer, loss: str, seed: int, parts: tuple[Arrays, Arrays, Arrays]
) -> dict[str, Any]:
    """One training: IoU on the validation images meanwhile, and scores on the test images."""
    training, validation, test = parts
    curve = []

    def watch(step, state):
        if step % max(trainer.steps // 10, 1) == 0:
            counts = sweep(trainer.logits(state, validation[0]), validation[1])
            curve.append([step, float(metrics.iou(counts.outcomes())[128, 0])])

    state = trainer.run(training, seed, watch)
    counts = sweep(trainer.logits(state, validation[0]), validation[1])
    threshold = float(metrics.best_threshold(metrics.iou, counts).threshold[0])
    outcomes = sweep(trainer.logits(state, test[0]), test[1]).outcomes()
    iou, precision, recall = (
        np.asarray(score(outcomes))[:, 0]
        for score in (metrics.iou, metrics.precision, metrics.recall)
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
    """The small U-Net with one logit."""
    return models.unet(num_classes=1, encoder=small_encoder(4), channels=channels)


def measure(steps: int, seeds: int, lengths: tuple[int, int, int]) -> dict[str, Any]:
    """Trains with every loss from every seed; with the cross-entropy once for three times as long, and once wider."""
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
        one(trainer, loss, seed, parts)
        for loss, trainer in trainers.items()
        for seed in range(seeds)
    ]
    patient = Trainer(model, "cross_entropy", 3 * steps)
    result["longer"] = one(patient, "cross_entropy", 0, parts)
    roomy = Trainer(network(WIDER), "cross_entropy", steps)
    result["wider"] = one(roomy, "cross_entropy", 0, parts)
    return result


def spread(values: list[float]) -> str:
    """The mean, and the smallest and the largest value."""
    return f"{np.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def table(result: dict[str, Any]) -> str:
    """The rows of the page's table."""
    head = "| loss | IoU | precision | recall | IoU, threshold chosen |"
    lines = [head, "|---|---|---|---|---|"]
    for loss in LOSSES:
        runs = [run for run in result["runs"] if run["loss"] == loss]
        names = ("iou", "precision", "recall", "iou_at_threshold")
        columns = [[run[name] for run in runs] for name in names]
        cells = " | ".join(spread(values) for values in columns)
        lines.append(f"| {NAMES[loss]} | {cells} |")
    return "\n".join(lines)


def draw_curves(result: dict[str, Any], out: Path) -> None:
    """IoU of the bars while training, and by threshold when trained."""
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
