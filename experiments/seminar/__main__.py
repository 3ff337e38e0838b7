"""Makes the figures and the two tables of docs/seminar.md.

    python experiments/seminar                 # everything
    python experiments/seminar --trainings no  # the figures without training, in a minute

Writes docs/images/seminar/ and docs/benchmarks/seminar.json, and prints the tables.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import borders
import instances
import overlap
import rare
import receptive_fields
import style
import tyro
import unet
import upsampling

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    trainings: Literal["yes", "no"] = "yes"
    """Whether to run the experiments that train networks."""
    out: Path = style.OUT
    """The folder of the figures."""
    results: Path = ROOT / "docs" / "benchmarks" / "seminar.json"
    """The file of the results."""
    rare_steps: int = 300
    """Steps of each training on the rare class."""
    rare_images: tuple[int, int, int] = (2400, 600, 1000)
    """Images generated for training, validation and test."""
    seeds: int = 3
    """Trainings per loss."""
    border_steps: int = 240
    """Steps of each training for borders."""
    border_images: tuple[int, int] = (600, 40)
    """Images for training and test."""
    rows: tuple[int, ...] = (2, 10)
    """Indices of the test images to show."""


def main(arguments: Arguments) -> None:
    """Plots, trains and prints."""
    for module in (overlap, upsampling, unet, instances, receptive_fields):
        module.plot(arguments.out)
    if arguments.trainings == "no":
        return
    began = time.perf_counter()
    losses = rare.measure(arguments.rare_steps, arguments.seeds, arguments.rare_images)
    rare.plot_curves(losses, arguments.out)
    networks, predictions = borders.measure(arguments.border_steps, arguments.border_images)
    borders.plot_borders(predictions, arguments.border_images[1], arguments.rows, arguments.out)
    result = {"losses": losses, "borders": networks}
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(result) + "\n")
    print(rare.table(losses), borders.table(networks), sep="\n\n")
    for name in ("longer", "wider"):
        run = losses[name]
        scores = f"{run['iou']:.2f}, threshold chosen {run['iou_at_threshold']:.2f}"
        print(f"cross-entropy, {name}: IoU {scores}")
    print(f"{time.perf_counter() - began:.0f} s for the trainings")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
