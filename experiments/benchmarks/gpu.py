"""Throughput on one GPU beside PyTorch, how much of the GPU's arithmetic that is, and where the rest of the time goes.

U-Net-R34, FCN-R50 (output stride 8) and FPN-R50 at 512 x 512 in bfloat16, in training and in inference. For each:

1. The best batch of each side: doubled until memory ends or throughput falls, every size in a process of its own.
2. Both at theirs, taking turns in one run (`turns.py`): jaxseg's own step against smp's or torchvision's network through
   `torch.compile(mode="max-autotune")`, channels last, autocast, fused AdamW. A side may have 45 % of the GPU's memory,
   since both are there at once.
3. Floating-point operations a second over those of the fastest bfloat16 matrix product that was measured before.
4. A profile of jaxseg's step: the share of convolutions, normalisation, copies, the optimizer, idleness.

    PYTHONPATH=. python experiments/benchmarks/gpu.py --append
    PYTHONPATH=. python experiments/benchmarks/gpu.py --networks fpn_resnet50 --tasks train      # a part of it
    PYTHONPATH=. python experiments/benchmarks/gpu.py --batch 64 64 --networks unet_resnet34     # no search
    PYTHONPATH=. python experiments/benchmarks/gpu.py --size 64 --batch 1 1 --rounds 2 --steps 1 \\
        --mode eager --dtype float32 --matrix 256 --networks unet_resnet34                       # tries it on a CPU

Meant for one data-centre GPU (A100, H100) that nobody else uses. Most of the time is torch's autotuning, once for each
batch that is tried: where time is short, give one network a call, or `--search-mode default` to find PyTorch's batch
without it. Needs jax, torch and torchvision, and segmentation_models.pytorch for the twins of U-Net and FPN (a network
without its twin is measured alone, and the command says so). Neither tyro nor grain need be there.

It has run on CPUs alone so far: no number of a GPU is known yet.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import itertools
import os
import tempfile
from collections.abc import Mapping

from gpu_profile import KINDS, profile_side
from gpu_sides import EAGER, NETWORKS, Case, missing, turn
from gpu_trials import Trial, apart, best_batch, fastest, matrix_rate, trial
from page import append
from turns import Timing, machine, take_turns

HEADING = "## Networks on a GPU"
INTRODUCTION = """Rows of `python experiments/benchmarks/gpu.py --append`: the best batch of each side, images a second (medians
of runs that take turns), half the distance of the quartiles over the median, how many times as fast as PyTorch, operations a
second over those of the fastest matrix product, start and compiling, peak memory of the GPU.

| what | side | batch | images/s | spread | ratio | of the matrix rate | ready after | peak | where and when |
|---|---|---|---|---|---|---|---|---|---|"""
PROFILE_HEADING = "## Where a step on a GPU goes"
PROFILE_INTRODUCTION = f"""Rows of the same command: the share of each kind of operation in a profiled step of jaxseg.

| what | batch | step | {" | ".join(KINDS)} | where and when |
|---|---|---|{"---|" * len(KINDS)}---|"""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--tasks", nargs="+", choices=("train", "infer"), default=("train", "infer"))
    add("--size", type=int, default=512, help="height and width of the images")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--mode", default="max-autotune", help=f"of torch.compile, or {EAGER}")
    add(
        "--search-mode",
        help="that of PyTorch while its best batch is sought; as --mode if left out",
    )
    add("--batch", type=int, nargs=2, metavar=("JAXSEG", "TORCH"), help="instead of a search")
    add("--first", type=int, default=8, help="the batch that the search begins with")
    add("--last", type=int, default=512, help="the largest batch that it tries")
    add("--rounds", type=int, default=11, help="how often each side is timed")
    add("--steps", type=int, default=5, help="steps before one waits")
    add("--memory", type=float, default=0.45, help="the part of the GPU's memory for each side")
    add("--matrix", type=int, nargs="+", default=(4096, 8192, 16384), help="sizes of the products")
    add("--append", action="store_true", help="to docs/benchmarks.md")
    return parser


def search(side: str, case: Case, given: argparse.Namespace) -> list[Trial]:
    """The trials of a side, each said as it ends; none where the side does not run at all."""
    first, last = given.first, given.last
    if given.batch:
        first = last = given.batch[side == "torch"]

    def tried(batch: int, case: Case = case) -> Trial | None:
        result = apart(trial, side, case, batch)
        said = "does not fit" if result is None else f"{result.images:.1f} images/s"
        print(f"  {side}, batch {batch}: {said}", flush=True)
        return result

    try:
        if side == "torch" and given.search_mode and not given.batch:
            sought = dataclasses.replace(case, mode=given.search_mode)
            found = best_batch(functools.partial(tried, case=sought), first, last)
            first = last = fastest(found).batch if found else first
        return best_batch(tried, first, last)
    except RuntimeError as error:  # the other side's numbers are worth having
        print(f"{error}\n  {side} does not run: see above", flush=True)
        return []


def rows(
    case: Case, trials: Mapping[str, Trial], timings: Mapping[str, Timing], rate: float
) -> list[str]:
    """A table's rows, one for each side; the operations of an image are those of jaxseg's program for both."""
    speeds = {
        side: trials[side].batch * case.steps / timing.median for side, timing in timings.items()
    }
    ours, lines = trials["jaxseg"], []
    for side, timing in timings.items():
        peak = trials[side].peak
        cells = (
            what(case),
            f"torch, {case.mode}" if side == "torch" else side,
            trials[side].batch,
            f"{speeds[side]:.1f}",
            f"{100 * timing.spread:.0f} %",
            f"{speeds[side] / speeds['torch']:.2f}" if "torch" in speeds else "-",
            f"{100 * ours.flops * speeds[side] / rate:.1f} %",
            f"{trials[side].ready:.1f} s",
            "-" if peak is None else f"{peak / 2**20:.0f} MiB",
            where(ours.device),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def profile_row(case: Case, ours: Trial, step: float, shares: Mapping[str, float]) -> str:
    """A row of the other table."""
    parts = " | ".join(f"{100 * shares[kind]:.1f} %" for kind in KINDS)
    return f"| {what(case)} | {ours.batch} | {1e3 * step:.1f} ms | {parts} | {where(ours.device)} |"


def what(case: Case) -> str:
    """What a row is about."""
    return f"{case.network}, {case.task}, {case.size} x {case.size}, {case.dtype}"


def where(device: str) -> str:
    """Hardware, versions and the day."""
    there = []
    for name in ("jax", "torch", "torchvision", "segmentation_models_pytorch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            there.append(f"{name} {importlib.metadata.version(name)}")
    hardware = machine() if device == "cpu" else f"{device}; {machine()}"
    return f"{hardware}; {', '.join(there)}; {datetime.date.today().isoformat()}"


def measure(case: Case, given: argparse.Namespace, rate: float) -> None:
    """One network and task, from the search to the rows.

    Raises:
        RuntimeError: jaxseg or its profile failed; what was measured before is said and written.
    """
    print(f"\n{what(case)}", flush=True)
    sides = ["jaxseg"]
    if lacking := missing(case.network):
        print(f"  no twin: {' and '.join(lacking)} cannot be imported", flush=True)
    else:
        sides.append("torch")
    found = {side: search(side, case, given) for side in sides}
    trials = {side: fastest(tried) for side, tried in found.items() if tried}
    if "jaxseg" not in trials:
        raise RuntimeError("jaxseg was not measured at any batch")
    batches = {side: (turn, (side, case, trials[side].batch)) for side in trials}
    lines = rows(case, trials, take_turns(batches, given.rounds), rate)
    print("\n".join(lines), flush=True)
    if given.append:
        append(HEADING, INTRODUCTION, lines)
    ours = trials["jaxseg"]
    lines = [profile_row(case, ours, *apart(profile_side, case, ours.batch))]
    print("\n".join(lines), flush=True)
    if given.append:
        append(PROFILE_HEADING, PROFILE_INTRODUCTION, lines)


def main(words: list[str] | None = None) -> None:
    """Measures, prints and, if asked to, appends; a case that fails does not keep the others from being measured."""
    given, failed = arguments().parse_args(words), []
    with tempfile.TemporaryDirectory() as cache:  # what the search compiled the turns load
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        rates = apart(matrix_rate, tuple(given.matrix))
        for size, rate in rates.items():
            print(f"bfloat16 product of {size} x {size}: {rate / 1e12:.3f} TFLOP/s", flush=True)
        for network, task in itertools.product(given.networks, given.tasks):
            case = Case(
                network, task, given.size, given.dtype, given.mode, given.steps, given.memory
            )
            try:
                measure(case, given, max(rates.values()))
            except (RuntimeError, SystemExit) as error:
                print(f"  {error}", flush=True)
                failed.append(what(case))
    if failed:
        raise SystemExit(f"not measured to the end: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
