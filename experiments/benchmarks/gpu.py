"""Measures throughput on one GPU beside PyTorch, the fraction of the GPU's matrix rate, and a profile.

U-Net-R34, FCN-R50 (output stride 8) and FPN-R50 at 512 x 512 in bfloat16, in training and in inference. For each:

1. The best batch size of each side: doubled until memory is exhausted or throughput falls, each in a new process.
2. Both sides at their best batch, alternately (`interleave.py`): jaxseg's step against smp's or torchvision's network through
   `torch.compile(mode="max-autotune")`, channels last, autocast, fused AdamW. A side may use 45 % of the GPU's memory, since
   both processes exist at the same time.
3. Floating-point operations per second, divided by those of the fastest bfloat16 matrix product.
4. A profile of jaxseg's step: the fractions of convolutions, normalization, copies, the optimizer and idle time.

    PYTHONPATH=. python experiments/benchmarks/gpu.py --append
    PYTHONPATH=. python experiments/benchmarks/gpu.py --networks fpn_resnet50 --tasks train      # a subset
    PYTHONPATH=. python experiments/benchmarks/gpu.py --batch 64 64 --networks unet_resnet34     # no search
    PYTHONPATH=. python experiments/benchmarks/gpu.py --size 64 --batch 1 1 --rounds 2 --steps 1 \\
        --mode eager --dtype float32 --matrix 256 --networks unet_resnet34                       # a trial on a CPU

Meant for one idle data-centre GPU (A100, H100). Most of the time goes into torch's autotuning of every batch size that is
tried: to save time, measure one network per call, or find PyTorch's batch with `--search-mode default`. Needs jax, torch
and torchvision, and segmentation_models.pytorch for U-Net and FPN. A network whose peer is missing is measured alone.
Neither tyro nor grain is needed.

It has only run on CPUs so far, so there are no results of a GPU yet.
"""

import argparse
import dataclasses
import functools
import itertools
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from append_table import append, rows
from gpu_profile import profile_side
from gpu_sides import EAGER, NETWORKS, Case, make_run, missing
from gpu_trials import Trial, best_batch, fastest, in_new_process, matrix_rate, trial
from interleave import Timing, time_alternately, where

PACKAGES = ("jax", "torch", "torchvision", "segmentation_models_pytorch")


def arguments() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--tasks", nargs="+", choices=("train", "infer"), default=("train", "infer"))
    add("--size", type=int, default=512, help="height and width of the images")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--mode", default="max-autotune", help=f"mode of torch.compile, or {EAGER}")
    add(
        "--search-mode",
        help="mode of torch.compile in the search for the best batch; that of --mode by default",
    )
    add(
        "--batch",
        type=int,
        nargs=2,
        metavar=("JAXSEG", "TORCH"),
        help="batch sizes, instead of a search",
    )
    add("--first", type=int, default=8, help="the first batch size of the search")
    add("--last", type=int, default=512, help="the largest batch size of the search")
    add("--rounds", type=int, default=11, help="how often each side is timed")
    add("--steps", type=int, default=5, help="steps per synchronization")
    add("--memory", type=float, default=0.45, help="fraction of the GPU's memory per side")
    add(
        "--matrix",
        type=int,
        nargs="+",
        default=(4096, 8192, 16384),
        help="sizes of the matrix products",
    )
    add("--append", action="store_true", help="append to docs/benchmarks.md")
    return parser


def search(side: str, case: Case, options: argparse.Namespace) -> list[Trial]:
    """Returns the trials of a side, printing each as it ends; none if the side does not run at all."""
    first, last = options.first, options.last
    if options.batch:
        first = last = options.batch[side == "torch"]

    def measured(batch: int, case: Case = case) -> Trial | None:
        result = in_new_process(trial, side, case, batch)
        message = "does not fit" if result is None else f"{result.images:.1f} images/s"
        print(f"  {side}, batch {batch}: {message}", flush=True)
        return result

    try:
        if side == "torch" and options.search_mode and not options.batch:
            faster = dataclasses.replace(case, mode=options.search_mode)
            found = best_batch(functools.partial(measured, case=faster), first, last)
            first = last = fastest(found).batch if found else first
        return best_batch(measured, first, last)
    except RuntimeError as error:  # the other side is still measured
        print(f"{error}\n  {side} does not run, see above", flush=True)
        return []


def results(
    case: Case, trials: Mapping[str, Trial], timings: Mapping[str, Timing], rate: float
) -> list[dict[str, Any]]:
    """Returns a record of each side; the operations per image are those of jaxseg's program for both.

    Args:
        case: The measurement.
        trials: The best trial of each side.
        timings: The alternating runs of each side.
        rate: Floating-point operations per second of the fastest matrix product.
    """
    speeds = {
        side: trials[side].batch * case.steps / timing.median for side, timing in timings.items()
    }
    ours, found = trials["jaxseg"], []
    for side, timing in timings.items():
        peak = trials[side].peak
        record = hardware(ours.device) | {"what": what(case)}
        record["side"] = f"torch, {case.mode}" if side == "torch" else side
        record |= {"batch": trials[side].batch, "images_per_s": round(speeds[side], 1)}
        record |= {"spread": round(timing.spread, 3), "ready_s": round(trials[side].ready, 1)}
        record["matrix_rate"] = round(ours.flops * speeds[side] / rate, 4)
        if "torch" in speeds:
            record["ratio"] = round(speeds[side] / speeds["torch"], 3)
        if peak is not None:
            record["peak_mib"] = round(peak / 2**20)
        found.append(record)
    return found


def profile(case: Case, ours: Trial, step: float, fractions: Mapping[str, float]) -> dict[str, Any]:
    """Returns the record of a profile: seconds of a step and the fraction of each kind of operation."""
    record = hardware(ours.device) | {"what": what(case), "batch": ours.batch}
    record["step_ms"] = round(1e3 * step, 1)
    return record | {kind.replace(" ", "_"): round(part, 4) for kind, part in fractions.items()}


def what(case: Case) -> str:
    """Names a measurement."""
    return f"{case.network}, {case.task}, {case.size} x {case.size}, {case.dtype}"


def hardware(device: str) -> dict[str, str]:
    """Returns date, hardware and versions."""
    return where(PACKAGES, device="" if device == "cpu" else device)


def measure(case: Case, options: argparse.Namespace, rate: float) -> None:
    """Measures one network and task: search, alternating runs, profile.

    Raises:
        RuntimeError: jaxseg or its profile failed. Results up to there are printed and appended.
    """
    print(f"\n{what(case)}", flush=True)
    sides = ["jaxseg"]
    if lacking := missing(case.network):
        print(f"  no peer: {' and '.join(lacking)} cannot be imported", flush=True)
    else:
        sides.append("torch")
    found = {side: search(side, case, options) for side in sides}
    trials = {side: fastest(tried) for side, tried in found.items() if tried}
    if "jaxseg" not in trials:
        raise RuntimeError("jaxseg was not measured at any batch")
    runs = {side: (make_run, (side, case, trials[side].batch)) for side in trials}
    measured = results(case, trials, time_alternately(runs, options.rounds), rate)
    print("\n".join(rows("gpu", measured)), flush=True)
    if options.append:
        append("gpu", measured)
    ours = trials["jaxseg"]
    profiled = [profile(case, ours, *in_new_process(profile_side, case, ours.batch))]
    print("\n".join(rows("gpu_profile", profiled)), flush=True)
    if options.append:
        append("gpu_profile", profiled)


def main(words: list[str] | None = None) -> None:
    """Measures, prints and, on request, appends. A case that fails does not stop the others."""
    options, failed = arguments().parse_args(words), []
    with tempfile.TemporaryDirectory() as cache:  # the alternating runs load programs of the search
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        rates = in_new_process(matrix_rate, tuple(options.matrix))
        for size, rate in rates.items():
            print(f"bfloat16 product of {size} x {size}: {rate / 1e12:.3f} TFLOP/s", flush=True)
        for network, task in itertools.product(options.networks, options.tasks):
            case = Case(
                network,
                task,
                options.size,
                options.dtype,
                options.mode,
                options.steps,
                options.memory,
            )
            try:
                measure(case, options, max(rates.values()))
            except (RuntimeError, SystemExit) as error:
                print(f"  {error}", flush=True)
                failed.append(what(case))
    if failed:
        raise SystemExit(f"incomplete measurements: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
