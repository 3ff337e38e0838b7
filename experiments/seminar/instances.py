"""Semantic and instance segmentation: shapes of one class that touch, and a shape split by another one."""

from pathlib import Path

import numpy as np
import style
from scipy import ndimage

from jaxseg import data

SIZE, SEED = 96, 5
ROWS = {"two crosses touch": 143, "one bar is cut in two": 105}
SHAPES = (*(style.GROUND, style.BLUE, "#56b4e9", style.ORANGE, "#f0e442", style.GREEN, style.RED),)
NUMBERED = (style.GROUND, style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.RED)


def regions(labels: np.ndarray) -> np.ndarray:
    """Numbers the connected regions of every class of a semantic mask."""
    result = np.zeros(labels.shape, int)
    for class_id in range(1, 7):
        found, _ = ndimage.label(labels == class_id)
        result = np.where(found > 0, found + result.max(), result)
    return result


def plot(out: Path) -> None:
    """Plots image, classes, regions of the classes and instances."""
    source = data.Shapes(max(ROWS.values()) + 1, (SIZE, SIZE), seed=SEED)
    figure = style.figure(8.2, 4.5)
    panels = figure.subplots(len(ROWS), 4)
    for axes, (name, index) in zip(panels, ROWS.items(), strict=True):
        record = source[index]
        found, shapes = regions(record["label"]), record["instance"]
        style.picture(axes[0], record["image"], name)
        style.picture(axes[1], style.painted(record["label"], SHAPES), "classes")
        style.picture(axes[2], style.painted(found, NUMBERED), f"{found.max()} regions")
        style.picture(axes[3], style.painted(shapes, NUMBERED), f"{shapes.max()} instances")
        for k in range(1, shapes.max() + 1):
            style.outline(axes[3], shapes == k, style.INK, 1.0)
        for k in range(1, found.max() + 1):
            style.outline(axes[2], found == k, style.INK, 1.0)
    style.save(figure, out, "instances.png")
