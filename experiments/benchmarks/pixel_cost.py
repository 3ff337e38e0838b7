"""Measures the cost per pixel as images grow, of train steps and inference of U-Net with ResNet-34, beside PyTorch's.

Batches shrink as images grow, so that every step has the same number of pixels (64 images of 128 x 128, one of
1024 x 1024) and only their shape changes. A flat cost deviates little from its median over the sizes. Each side and size
has a process of its own, whose peak memory is reported.

    python experiments/benchmarks/pixel_cost.py                 # train steps, several GiB of memory for each side
    python experiments/benchmarks/pixel_cost.py --task infer
    python experiments/benchmarks/pixel_cost.py --sizes 128 256 512 --pixels 262144

Needs torch and segmentation_models.pytorch. Prints a row for each side and size, and one for each side over all sizes;
`--append` adds them to docs/benchmarks.md.
"""

import statistics
from dataclasses import dataclass
from typing import Any, Literal

import models
import tyro
from append_table import append, rows
from interleave import Timing, time_alternately, where

FLAT = 0.2


@dataclass(frozen=True)
class Arguments:
    """Options of the command line."""

    task: Literal["train", "infer"] = "train"
    """One step of AdamW, or the logits only."""
    sizes: tuple[int, ...] = (128, 256, 512, 1024)
    """Heights and widths."""
    pixels: int = 1024 * 1024
    """Pixels per step; a larger image is a batch of its own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the computation."""
    rounds: int = 5
    """Timed runs per side."""
    append: bool = False
    """Whether to append the result to docs/benchmarks.md."""


def case(size: int, arguments: Arguments) -> models.Arguments:
    """Returns the network and a batch that holds the number of pixels."""
    batch = max(1, arguments.pixels // size**2)
    return models.Arguments("unet_resnet34", arguments.task, batch, size, arguments.dtype)


def nanoseconds(timing: Timing, case: models.Arguments) -> float:
    """Returns the cost per pixel."""
    return 1e9 * timing.median / (case.batch * case.size**2)


def deviations(costs: dict[int, float]) -> dict[int, float]:
    """Returns the relative deviation of each size's cost from their median."""
    middle = statistics.median(costs.values())
    return {size: cost / middle - 1 for size, cost in costs.items()}


def results(measured: dict[int, dict[str, Timing]], arguments: Arguments) -> list[dict[str, Any]]:
    """Returns a record of each size and side, then one of each side with its median cost and largest deviation."""
    cases = {size: case(size, arguments) for size in measured}
    found, summaries = [], []

    def record(shape: str, side: str, **numbers: float) -> dict[str, Any]:
        what = f"unet_resnet34, {arguments.task}, {shape}, {arguments.dtype}"
        return where() | {"what": what, "side": side} | numbers

    for side in measured[arguments.sizes[0]]:
        timings = {size: sides[side] for size, sides in measured.items()}
        costs = {size: nanoseconds(timings[size], cases[size]) for size in timings}
        off = deviations(costs)
        for size, each in cases.items():
            found.append(
                record(
                    f"{each.batch} x {size} x {size}",
                    side,
                    ns_per_pixel=round(costs[size]),
                    spread=round(timings[size].spread, 3),
                    deviation=round(off[size], 3),
                    peak_mib=round(timings[size].peak / 2**20),
                )
            )
        summaries.append(
            record(
                f"{min(cases)} to {max(cases)}",
                side,
                ns_per_pixel=round(statistics.median(costs.values())),
                deviation=round(max(off.values(), key=abs), 3),
                peak_mib=round(max(t.peak for t in timings.values()) / 2**20),
            )
        )
    return found + summaries


def flatness(found: list[dict[str, Any]]) -> dict[str, bool]:
    """Returns for each side whether its largest deviation is within the tolerance.

    Args:
        found: Records of `results`, whose last of each side holds the largest deviation.
    """
    return {record["side"]: abs(record["deviation"]) <= FLAT for record in found}


def main(arguments: Arguments) -> None:
    """Measures, prints and, on request, appends."""
    measured = {}
    for size in arguments.sizes:
        each = case(size, arguments)
        sides = {
            "jaxseg": (models.jaxseg_side, (each,)),
            "torch": (models.torch_side, (each, False)),
        }
        measured[size] = time_alternately(sides, arguments.rounds)
        medians = {name: round(nanoseconds(t, each)) for name, t in measured[size].items()}
        print(f"{each.batch} x {size} x {size}: ns per pixel {medians}", flush=True)
    found = results(measured, arguments)
    print("\n".join(rows("pixel_cost", found)))
    for side, flat in flatness(found).items():
        print(f"{side}: {'flat' if flat else 'not flat'} within {FLAT:.0%}")
    if arguments.append:
        append("pixel_cost", found)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
