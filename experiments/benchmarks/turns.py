"""Times two or more programs that take turns: each in a process of its own, one of which runs at a time.

Absolute times of a shared machine are noise, and two libraries in one process share its memory and disturb each
other's threads. So each side lives in its own process, is asked for one run after the other (A B A B), and what counts is
the ratio of medians. A side's peak memory is its process's.

A turn is two runs, of which the second is timed: what a process frees goes back to the system, on a virtual machine even to
its host, while others have their turns, and to get hundreds of megabytes back takes as long as half a train step. Steps of
a training follow each other.
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
"""Runs once and returns when the result is there. A `before` that it has as an attribute is called first, untimed."""
OURS = "jaxseg"
"""What the names of sides begin with that are no peers."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one side took.

    Attributes:
        seconds: Of each run, in the order of the rounds.
        prepare: Seconds from the start of its process to the first result, compiling included.
        peak: Bytes of resident memory at most.
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
        """Half the distance of the quartiles over the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median


def take_turns(
    sides: Mapping[str, tuple[Callable[..., Run], Sequence[Any]]], rounds: int
) -> dict[str, Timing]:
    """Times all sides, one after the other in each round, in rotating order.

    Args:
        sides: For each, a function at the top of a module, and its arguments. It is called in a new process and returns
            what is timed.
        rounds: How often each is timed, at least 2; one more round warms up.
    """
    context = multiprocessing.get_context("spawn")
    processes, pipes = {}, {}
    try:
        for name, (make, arguments) in sides.items():
            pipes[name], theirs = context.Pipe()
            processes[name] = context.Process(target=_serve, args=(theirs, make, arguments))
            processes[name].start()
            theirs.close()
        prepare = {name: _answer(name, pipe) for name, pipe in pipes.items()}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        names = list(sides)
        for i in range(rounds + 1):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                pipes[name].send("run")
                took = _answer(name, pipes[name])
                if i:
                    seconds[name].append(took)
        timings = {}
        for name, pipe in pipes.items():
            pipe.send("stop")
            timings[name] = Timing(tuple(seconds[name]), prepare[name], int(_answer(name, pipe)))
        return timings
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes.values():
            process.join(30)  # its own workers end first
            process.kill()


def _answer(name: str, pipe: Connection) -> float:
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


def machine() -> str:
    """Processor and cores, for a table's row."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def where() -> str:
    """Machine, versions and date, for a table's row."""
    versions = []
    for name in ("jax", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return f"{machine()}; {', '.join(versions)}; {datetime.date.today()}"


def rows(what: str, timings: Mapping[str, Timing]) -> list[str]:
    """A table's rows, one for each side, the ratio to the fastest peer in each of them."""
    best = min(t.median for name, t in timings.items() if not name.startswith(OURS))
    return [
        f"| {what} | {name} | {_milliseconds(t.median)} | {100 * t.spread:.0f} % | {best / t.median:.2f} | "
        f"{t.prepare:.1f} s | {t.peak / 2**20:.0f} MiB | {where()} |"
        for name, t in timings.items()
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.{0 if seconds >= 0.1 else 1}f} ms"
