"""Style of the figures of the tutorial: colours for the colour-blind, one font, a light background."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

OUT = Path(__file__).parents[2] / "docs" / "images" / "seminar"
INK, QUIET, RULE, PAPER = "#1b1f27", "#667080", "#dfe3e8", "#ffffff"
BLUE, ORANGE, GREEN, RED, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
"""Colours of Okabe and Ito, which can be distinguished with all kinds of colour blindness."""
GROUND = "#eceff2"

matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": RULE,
        "axes.titlesize": 10,
        "axes.titlecolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 2,
        "svg.hashsalt": "jaxseg",
        "savefig.facecolor": PAPER,
    }
)


def figure(width: float, height: float) -> Figure:
    """Returns an empty figure with its size in inches; the page shows at most about 860 pixels of width."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, out: Path, name: str, dpi: int = 144) -> None:
    """Writes an SVG or PNG file reproducibly."""
    out.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if name.endswith(".svg") else {"Software": None}
    figure.savefig(out / name, dpi=dpi, metadata=metadata)
    print(f"{out / name}  {(out / name).stat().st_size / 1000:.0f} kB")


def picture(axes: Axes, image: np.ndarray, title: str = "", **options) -> None:
    """Shows an image with square pixels and without axes."""
    axes.imshow(image, interpolation="nearest", **options)
    axes.set_title(title)
    axes.set_axis_off()


def painted(labels: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """Maps class ids `[H, W]` to colours `[H, W, 3]`."""
    return np.array([to_rgb(colour) for colour in colours])[labels]


def outline(axes: Axes, mask: np.ndarray, colour: str, width: float = 1.8, **options) -> None:
    """Draws the border of a mask along the edges of its pixels."""
    padded = np.pad(mask.astype(int), 1)
    # Row r of the difference lies between rows r - 1 and r of the mask.
    rows = [
        [(x - 1.5, y - 0.5), (x - 0.5, y - 0.5)] for y, x in np.argwhere(np.diff(padded, axis=0))
    ]
    columns = [
        [(x - 0.5, y - 1.5), (x - 0.5, y - 0.5)] for y, x in np.argwhere(np.diff(padded, axis=1))
    ]
    lines = LineCollection(rows + columns, colors=colour, linewidths=width, **options)
    lines.set_capstyle("round")
    axes.add_collection(lines)
