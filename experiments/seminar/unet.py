"""Diagram of the original U-Net with its maps from 572 to 388 pixels to scale."""

from pathlib import Path

import jax
import style
from matplotlib.patches import FancyArrowPatch, Rectangle

from jaxseg import models

STEP, DROP, WIDTH = 0.95, 1.12, 0.22


def sizes(length: int) -> dict[str, tuple[int, int]]:
    """Returns height and channels of the output of each block for an image with `length` rows."""
    body = models.original_unet(num_classes=2).body
    images = jax.ShapeDtypeStruct((1, length, length, 1), "float32")

    def run(x):
        return body.init_with_output(jax.random.key(0), x, capture_intermediates=True)

    maps = jax.eval_shape(run, images)[1]["intermediates"]
    shapes = {name: maps[name]["__call__"][0].shape for name in maps if name != "__call__"}
    return {name: (shape[1], shape[3]) for name, shape in shapes.items()}


def plot(out: Path) -> None:
    """Plots the diagram."""
    shape = sizes(572)
    figure = style.figure(9.2, 5.2)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set(xlim=(-0.15, 8.45), ylim=(-5.0, 0.75))

    def box(x, level, size, colour, below=""):
        height = max(size / 600, 0.05)
        low = -DROP * level - height / 2
        axes.add_patch(Rectangle((x, low), WIDTH, height, facecolor=colour))
        axes.text(x + WIDTH / 2, low + height + 0.04, f"{size}", ha="center", fontsize=8.5)
        small = {"ha": "center", "fontsize": 7.5, "color": style.QUIET}
        axes.text(x + WIDTH / 2, low - 0.16, below, **small)
        return low

    def arrow(start, end, colour, dash="-"):
        look = {"color": colour, "linewidth": 1.3, "linestyle": dash, "shrinkA": 0, "shrinkB": 0}
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, **look))

    for level in range(5):
        y, x = -DROP * level, STEP * level
        size, channels = shape[f"contract{level}"]
        box(x, level, size + 4, "#9ecae1")
        box(x + 0.34, level, size, style.BLUE, f"{channels}")
        arrow((x + WIDTH, y), (x + 0.34, y), style.QUIET)
        if level == 4:
            continue
        right = 8 * STEP + 0.56 - x
        cropped, after = shape[f"up{level}"][0], shape[f"expand{level}"][0]
        low = box(right - 0.62, level, cropped, "#a8dcc9")
        box(right - 0.28, level, after, style.GREEN, f"{channels}")
        arrow((right - 0.4, y), (right - 0.28, y), style.QUIET)
        arrow((x + 0.58, y - 0.1), (x + STEP - 0.03, y - DROP), style.RED)
        end = right - STEP - 0.06 if level < 3 else x + STEP + 0.34 + WIDTH
        arrow((end + 0.03, y - DROP), (right - 0.51, low - 0.03), style.ORANGE)
        arrow((x + 0.62, y + 0.1), (right - 0.66, y + 0.1), style.QUIET, (0, (2, 2)))
        middle, text = (x + right) / 2, f"crop {size} to {cropped}, concatenate"
        axes.text(
            middle,
            y + 0.15,
            text if level < 3 else "crop",
            ha="center",
            fontsize=7.5,
            color=style.QUIET,
        )
    for i, (text, colour) in enumerate(
        (
            ("max-pool 2 x 2", style.RED),
            ("transposed convolution 2 x 2", style.ORANGE),
            ("two convolutions 3 x 3, nothing padded (below: channels)", style.QUIET),
        )
    ):
        arrow((0, -4.2 - 0.25 * i), (0.35, -4.2 - 0.25 * i), colour)
        axes.text(0.42, -4.2 - 0.25 * i, text, va="center", fontsize=8)
    axes.text(8.05, -0.78, "1 x 1: logits", ha="center", fontsize=7.5, color=style.QUIET)
    style.save(figure, out, "unet.svg")
