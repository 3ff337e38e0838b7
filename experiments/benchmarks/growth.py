"""What a pixel costs as images grow: train steps and inference of U-Net with ResNet-34, in turns with PyTorch's.

Batches shrink as images grow, so that every step has as many pixels (64 images of 128 x 128, one of 1024 x 1024) and what
changes is their shape alone. A cost that is flat deviates little from its median over the sizes. Each side and size has a
process of its own, whose peak memory is given.

    python experiments/benchmarks/growth.py                 # train steps, several GiB of memory for each side
    python experiments/benchmarks/growth.py --task infer
    python experiments/benchmarks/growth.py --sizes 128 256 512 --pixels 262144

Needs torch and segmentation_models.pytorch. Prints a row for each side and size, and one for each side over all sizes,
and appends them to docs/benchmarks.md with `--append`.
"""

import os
import statistics
from dataclasses import dataclass
from typing import Literal

import models
import tyro
from page import append
from turns import Timing, take_turns, where

HEADING = "## Cost of a pixel as images grow"
INTRODUCTION = """Rows of `python experiments/benchmarks/growth.py --append`: nanoseconds a pixel, medians of runs that take turns, half the
distance of the quartiles over the median, how far they are from the median over the sizes (in the last rows, the farthest),
peak memory.

| what | side | ns a pixel | spread | deviation | peak | where and when |
|---|---|---|---|---|---|---|"""
FLAT = 0.2


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    task: Literal["train", "infer"] = "train"
    """One AdamW step, or logits alone."""
    sizes: tuple[int, ...] = (128, 256, 512, 1024)
    """Heights and widths."""
    pixels: int = 1024 * 1024
    """Pixels of a step; an image that has more is a batch by itself."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to compute in."""
    rounds: int = 5
    """How often each side is timed."""
    append: bool = False
    """Whether to append the rows to docs/benchmarks.md."""


def case(size: int, arguments: Arguments) -> models.Arguments:
    """The network and as many images as make up the pixels."""
    batch = max(1, arguments.pixels // size**2)
    return models.Arguments("unet_resnet34", arguments.task, batch, size, arguments.dtype)


def nanoseconds(timing: Timing, case: models.Arguments) -> float:
    """Cost of a pixel."""
    return 1e9 * timing.median / (case.batch * case.size**2)


def deviations(costs: dict[int, float]) -> dict[int, float]:
    """How far each size's cost is from their median, as a part of it."""
    middle = statistics.median(costs.values())
    return {size: cost / middle - 1 for size, cost in costs.items()}


def rows(measured: dict[int, dict[str, Timing]], arguments: Arguments) -> list[str]:
    """A row for each size and side, then one for each side."""
    cases = {size: case(size, arguments) for size in measured}
    lines, last = [], []
    for side in measured[arguments.sizes[0]]:
        timings = {size: sides[side] for size, sides in measured.items()}
        costs = {size: nanoseconds(timings[size], cases[size]) for size in timings}
        off = deviations(costs)
        for size, each in cases.items():
            lines.append(
                f"| unet_resnet34, {arguments.task}, {each.batch} x {size} x {size}, {arguments.dtype} | {side} | "
                f"{costs[size]:.0f} | {100 * timings[size].spread:.0f} % | {100 * off[size]:+.0f} % | "
                f"{timings[size].peak / 2**20:.0f} MiB | {where()} |"
            )
        farthest = max(off.values(), key=abs)
        flat = "flat" if abs(farthest) <= FLAT else "not flat"
        last.append(
            f"| unet_resnet34, {arguments.task}, {min(cases)} to {max(cases)}, {arguments.dtype} | {side} | "
            f"{statistics.median(costs.values()):.0f} | | **{100 * farthest:+.0f} %**, {flat} within "
            f"{100 * FLAT:.0f} % | {max(t.peak for t in timings.values()) / 2**20:.0f} MiB | {where()} |"
        )
    return lines + last


def main(arguments: Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `jaxseg train` has it
    measured = {}
    for size in arguments.sizes:
        each = case(size, arguments)
        sides = {
            "jaxseg": (models.jaxseg_side, (each,)),
            "torch": (models.torch_side, (each, False)),
        }
        measured[size] = take_turns(sides, arguments.rounds)
        medians = {name: round(nanoseconds(t, each)) for name, t in measured[size].items()}
        print(f"{each.batch} x {size} x {size}: ns a pixel {medians}", flush=True)
    lines = rows(measured, arguments)
    print("\n".join(lines))
    if arguments.append:
        append(HEADING, INTRODUCTION, lines)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
