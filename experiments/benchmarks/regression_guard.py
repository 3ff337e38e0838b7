"""Fails if a network has become slower relative to PyTorch: ratios are compared, since times depend on the machine.

Each case is measured as by `models.py`, and its ratio (PyTorch's median over jaxseg's) is compared with the one that is
committed for this kind of processor in docs/benchmarks/guard.json. A loss of more than 15 % is measured again, at most twice,
before it counts, because the machine may be busy. On a processor without a record the ratios are only printed.

    python experiments/benchmarks/regression_guard.py                  # the cheapest two cases, as in .ci/run
    python experiments/benchmarks/regression_guard.py --cases all
    python experiments/benchmarks/regression_guard.py --cases all --record   # on a quiet machine, and commit the file

Needs torch and segmentation_models.pytorch.
"""

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import models
import tyro
from interleave import time_alternately

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
    """Options of the command line."""

    cases: Literal["cheapest", "all"] = "cheapest"
    """The first two, or all."""
    rounds: int = 15
    """Timed runs per side."""
    record: bool = False
    """Whether to write the ratios down instead of comparing them."""


def processor(cpuinfo: str) -> str:
    """Returns the kind of processor that ratios depend on: vendor, family, and whether it multiplies matrices in tiles.

    Args:
        cpuinfo: The text of /proc/cpuinfo.

    >>> processor("vendor_id\\t: GenuineIntel\\ncpu family\\t: 6\\nmodel\\t\\t: 207\\nflags\\t\\t: fpu amx_tile\\n")
    'GenuineIntel family 6 model 207 amx'
    """
    pairs = [line.partition(":") for line in cpuinfo.splitlines() if ":" in line]
    fields = {name.strip(): value.strip() for name, _, value in reversed(pairs)}
    vendor = fields.get("vendor_id", platform.machine())
    words = [vendor, "family", fields.get("cpu family", "-"), "model", fields.get("model", "-")]
    return " ".join([*words, *["amx"] * ("amx_tile" in fields.get("flags", "").split())])


def this_processor() -> str:
    """Returns the kind of this machine's processor."""
    file = Path("/proc/cpuinfo")
    return processor(file.read_text(encoding="utf-8") if file.exists() else "")


def ratio(case: models.Arguments, rounds: int) -> float:
    """Returns how many times as fast as PyTorch in eager mode a case is."""
    sides = {
        "jaxseg": (models.jaxseg_side, (case,)),
        "torch": (models.torch_side, (case, False)),
    }
    timings = time_alternately(sides, rounds)
    return timings["torch"].median / timings["jaxseg"].median


def lost(measured: float, committed: float) -> bool:
    """Whether a ratio has fallen by more than is allowed."""
    return measured < (1 - LOSS) * committed


def main(arguments: Arguments) -> None:
    """Measures and compares, or records."""
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    committed = records.setdefault(this_processor(), {})
    names = list(CASES)[: CHEAPEST if arguments.cases == "cheapest" else None]
    slower = []
    for name in names:
        measured, before = ratio(CASES[name], arguments.rounds), committed.get(name)
        if arguments.record:
            committed[name] = round(measured, 3)
        elif before is not None:
            for _ in range(ATTEMPTS - 1):
                if lost(measured, before):
                    measured = max(measured, ratio(CASES[name], arguments.rounds))
            slower += [name] if lost(measured, before) else []
        known = f"committed {before}" if before is not None else f"no record for {this_processor()}"
        print(f"{name}: {measured:.2f} times as fast as PyTorch, {known}", flush=True)
    if arguments.record:
        RECORD.write_text(json.dumps(records, indent=2) + "\n")
    if slower:
        raise SystemExit(f"more than {100 * LOSS:.0f} % slower than before: {'; '.join(slower)}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
