"""Everything that docs/seminar.md shows: its pictures, and the numbers of its two tables.

    python experiments/seminar                 # all of it
    python experiments/seminar --trainings no  # the pictures that need no training, in a minute

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
    """What to run, and how much of it."""

    trainings: Literal["yes", "no"] = "yes"
    """Whether the experiments that train networks run as well."""
    out: Path = style.OUT
    """Where the pictures go."""
    results: Path = ROOT / "docs" / "benchmarks" / "seminar.json"
    """Where the measured numbers go."""
    rare_steps: int = 300
    """Steps of each training on the rare class."""
    rare_images: tuple[int, int, int] = (2400, 600, 1000)
    """Images that are drawn for training, validation and test."""
    seeds: int = 3
    """Trainings of each loss."""
    border_steps: int = 240
    """Steps of each training for borders."""
    border_images: tuple[int, int] = (600, 40)
    """Images for training and test."""
    rows: tuple[int, ...] = (2, 10)
    """Which test images are shown."""


def main(arguments: Arguments) -> None:
    """Draws, trains, and prints."""
    for module in (overlap, upsampling, unet, instances, receptive_fields):
        module.draw(arguments.out)
    if arguments.trainings == "no":
        return
    began = time.perf_counter()
    losses = rare.measure(arguments.rare_steps, arguments.seeds, arguments.rare_images)
    rare.draw_curves(losses, arguments.out)
    networks, predictions = borders.measure(arguments.border_steps, arguments.border_images)
    borders.draw_borders(predictions, arguments.border_images[1], arguments.rows, arguments.out)
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
