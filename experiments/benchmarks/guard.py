"""Fails where a network has lost speed against its twin: ratios are compared, never times, which depend on the machine.

Each case is measured as `models.py` does, and its ratio (the faster twin's median over jaxseg's) with the committed one in
docs/benchmarks/guard.json. A loss of more than 15 % is measured again, twice at most, before it counts: a machine that
others use is no proof.

    python experiments/benchmarks/guard.py                  # the cheapest two cases, as in .ci/run
    python experiments/benchmarks/guard.py --cases all
    python experiments/benchmarks/guard.py --cases all --record   # on a quiet machine, and commit the file

Needs torch and segmentation_models.pytorch.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import models
import tyro
from turns import take_turns

RECORD = Path(__file__).parents[2] / "docs" / "benchmarks" / "guard.json"
LOSS = 0.15
ATTEMPTS = 3
CASES = {
    "unet_resnet34, infer, 1 x 128": models.Arguments("unet_resnet34", "infer", 1, 128),
    "unet_resnet34, train, 2 x 128": models.Arguments("unet_resnet34", "train", 2, 128),
    "unet_resnet34, infer, 1 x 256": models.Arguments("unet_resnet34", "infer", 1, 256),
    "unet_resnet34, train, 4 x 256": models.Arguments("unet_resnet34", "train", 4, 256),
    "fpn_resnet50, train, 4 x 256": models.Arguments("fpn_resnet50", "train", 4, 256),
    "fcn_resnet50, infer, 1 x 256": models.Arguments("fcn_resnet50", "infer", 1, 256),
}
CHEAPEST = 2


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    cases: Literal["cheapest", "all"] = "cheapest"
    """The first two, or all."""
    rounds: int = 15
    """How often each side is timed."""
    record: bool = False
    """Whether to write the ratios down instead of comparing them."""


def ratio(case: models.Arguments, rounds: int) -> float:
    """How many times as fast as PyTorch, as it comes."""
    sides = {
        "jaxseg": (models.jaxseg_side, (case,)),
        "torch": (models.torch_side, (case, False)),
    }
    timings = take_turns(sides, rounds)
    return timings["torch"].median / timings["jaxseg"].median


def lost(measured: float, committed: float) -> bool:
    """Whether a ratio has fallen by more than is allowed."""
    return measured < (1 - LOSS) * committed


def main(arguments: Arguments) -> None:
    """Measures and compares, or records."""
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `jaxseg train` has it
    committed = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    names = list(CASES)[: CHEAPEST if arguments.cases == "cheapest" else None]
    slower = []
    if unknown := [name for name in names if name not in committed and not arguments.record]:
        raise SystemExit(f"nothing to compare with, --record it first: {'; '.join(unknown)}")
    for name in names:
        measured = ratio(CASES[name], arguments.rounds)
        before = committed.get(name)
        if arguments.record:
            committed[name] = round(measured, 3)
        else:
            for _ in range(ATTEMPTS - 1):
                if lost(measured, before):
                    measured = max(measured, ratio(CASES[name], arguments.rounds))
            slower += [name] if lost(measured, before) else []
        print(f"{name}: {measured:.2f} times as fast as PyTorch, committed {before}", flush=True)
    if arguments.record:
        RECORD.write_text(json.dumps(committed, indent=2) + "\n")
    if slower:
        raise SystemExit(f"more than {100 * LOSS:.0f} % slower than before: {'; '.join(slower)}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
