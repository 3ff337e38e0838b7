"""Times two or more programs alternately, each in a process of its own, one of which runs at a time.

Absolute times on a shared machine are noise, and two libraries in one process share its memory and disturb each other's
threads. So each side of a comparison has its own process, the sides run one after the other (A B A B), and the result is
the ratio of their medians. The peak memory of a side is that of its process.

In every round a side runs twice, and the second run is timed. Memory that a process frees goes back to the system, on a
virtual machine even to its host, while the other sides run, and getting hundreds of megabytes back takes as long as half
a train step. In training, steps follow each other without such a gap. All sides run with huge pages, which is what a
long training should do on a CPU.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Run = Callable[[], Any]
"""Runs once and returns when the result is ready. An attribute `before`, if it has one, is called first and not timed."""
OURS = "jaxseg"
"""The prefix of the names of sides that are not peers."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """The measurements of one side.

    Attributes:
        seconds: Of each run, in the order of the rounds.
        prepare: Seconds from the start of its process to the first result, compilation included.
        peak: The largest resident memory, in bytes.
    """

    seconds: tuple[float, ...]
    prepare: float
    peak: int

    @property
    def median(self) -> float:
        """The median of `seconds`."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the interquartile range divided by the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


def time_alternately(
    sides: Mapping[str, tuple[Callable[..., Run], Sequence[Any]]], rounds: int
) -> dict[str, Timing]:
    """Times all sides, one after the other in each round, in rotating order.

    Args:
        sides: For each side a function at the top level of a module, and its arguments. The function is called in a new
            process and returns the function to time.
        rounds: How often each side is timed, at least 2. One more round comes first, for warming up.
    """
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    context = multiprocessing.get_context("spawn")
    processes, pipes = {}, {}
    try:
        for name, (make, arguments) in sides.items():
            pipes[name], theirs = context.Pipe()
            processes[name] = context.Process(target=_serve, args=(theirs, make, arguments))
            processes[name].start()
            theirs.close()
        prepare = {name: _receive(name, pipe) for name, pipe in pipes.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for i in range(rounds + 1):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                pipes[name].send("run")
                elapsed = _receive(name, pipes[name])
                if i:
                    seconds[name].append(elapsed)
        timings = {}
        for name, pipe in pipes.items():
            pipe.send("stop")
            timings[name] = Timing(tuple(seconds[name]), prepare[name], int(_receive(name, pipe)))
        return timings
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes.values():
            process.join(30)  # its own workers end first
            process.kill()


def _receive(name: str, pipe: Connection) -> float:
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{name} ended without an answer; its error is above") from None


def _serve(pipe: Connection, make: Callable[..., Run], arguments: Sequence[Any]) -> None:
    began = time.perf_counter()
    run = make(*arguments)
    run()
    pipe.send(time.perf_counter() - began)
    before = getattr(run, "before", lambda: None)
    while pipe.recv() == "run":
        before()
        run()
        before()
        began = time.perf_counter()
        run()
        pipe.send(time.perf_counter() - began)
    unit = 1 if platform.system() == "Darwin" else 1024
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def processor() -> str:
    """Returns the name of the processor's model."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def where(packages: Sequence[str] = ("jax", "torch"), device: str = "") -> dict[str, str]:
    """Returns date, machine and versions, with which every record of a measurement begins.

    Args:
        packages: Distributions whose versions are recorded where they are installed.
        device: An accelerator, named before the processor.
    """
    versions = []
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    machine = f"{processor()}, {os.cpu_count()} cores"
    return {
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "machine": f"{device}; {machine}" if device else machine,
        "versions": ", ".join(versions),
    }


def records(what: str, timings: Mapping[str, Timing]) -> list[dict[str, Any]]:
    """Returns a record of each side, with the ratio of the fastest peer's median to its own.

    Args:
        what: The measurement.
        timings: The sides by name, returned by `time_alternately`.
    """
    best = min(t.median for name, t in timings.items() if not name.startswith(OURS))
    return [
        where()
        | {"what": what, "side": name}
        | {"median_ms": milliseconds(t.median), "spread": round(t.spread, 3)}
        | {"ratio": round(best / t.median, 3)}
        | memory(t)
        for name, t in timings.items()
    ]


def memory(timing: Timing) -> dict[str, float]:
    """Returns the entries of a record for start and peak memory."""
    return {"ready_s": round(timing.prepare, 1), "peak_mib": round(timing.peak / 2**20)}


def milliseconds(seconds: float) -> float:
    """Converts seconds to milliseconds and rounds them to what can be reproduced.

    >>> milliseconds(0.0123456), milliseconds(1.23456)
    (12.3, 1235)
    """
    return round(1e3 * seconds) if seconds >= 0.1 else round(1e3 * seconds, 1)
