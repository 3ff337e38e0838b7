"""The time that the devices wait for the loader."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class LoaderWait:
    """Adds up the seconds in which no step runs because the loader has no batch.

    The host dispatches steps before earlier ones have ended, and may then wait for a batch that the devices do not need yet.
    Of such a wait only the part after the end of the last dispatched step counts. A thread waits for that end, so that the
    loop does not have to.

    >>> wait = LoaderWait()
    >>> wait.next(iter(["batch"]))
    'batch'
    >>> wait.pop_seconds() < 1, wait.pop_seconds()
    (True, 0.0)
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._running: Any = None
        self._watch = ThreadPoolExecutor(1)  # ends with this object

    def step_dispatched(self, results: Any) -> None:
        """Stores the results of the last dispatched step, which become ready when it has ended."""
        self._running = results

    def next(self, batches: Iterator[T]) -> T:
        """Returns the next batch, and measures how long it takes."""
        ended = None if _is_ready(self._running) else self._watch.submit(_end_of, self._running)
        start = time.monotonic()
        batch = next(batches)
        self._seconds += _idle_seconds(start, time.monotonic(), ended)
        return batch

    def pop_seconds(self) -> float:
        """Returns the seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def _is_ready(results: Any) -> bool:
    return all(leaf.is_ready() for leaf in jax.tree.leaves(results) if hasattr(leaf, "is_ready"))


def _end_of(results: Any) -> float:
    jax.block_until_ready(results)
    return time.monotonic()


def _idle_seconds(start: float, end: float, step_end: Future[float] | None) -> float:
    """Returns the part of a wait after the end of the step; `step_end` is None if the step ended before the wait."""
    if step_end is None:
        return end - start
    return max(end - max(start, step_end.result()), 0.0) if step_end.done() else 0.0
