"""How the pictures of the tutorial look: colours that are told apart by everyone, one font, a light ground."""

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
"""Okabe and Ito's colours, which the colour-blind tell apart as well."""
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
    """An empty figure, sizes in inches; the page shows it about 860 pixels wide at most."""
    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Figure, out: Path, name: str, dpi: int = 144) -> None:
    """Writes `name`, an SVG or a PNG, the same bytes each time."""
    out.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if name.endswith(".svg") else {"Software": None}
    drawn.savefig(out / name, dpi=dpi, metadata=metadata)
    print(f"{out / name}  {(out / name).stat().st_size / 1000:.0f} kB")


def picture(axes: Axes, image: np.ndarray, title: str = "", **options) -> None:
    """An image without axes; its pixels stay squares."""
    axes.imshow(image, interpolation="nearest", **options)
    axes.set_title(title)
    axes.set_axis_off()


def painted(labels: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """Class ids `[H, W]` as colours `[H, W, 3]`."""
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
