"""How long the devices had nothing to do because the next batch was not there."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Batch = TypeVar("Batch")


class Stall:
    """Adds up the seconds in which no step ran because the loader had no batch.

    The host starts steps before earlier ones have ended, and may then wait for a batch that the devices do not need yet.
    So of each wait only what lies after the end of the step that was started last is counted; a thread of its own waits
    for that, so that the loop need not.

    >>> stall = Stall()
    >>> stall.next(iter(["batch"]))
    'batch'
    >>> stall.take() < 1, stall.take()
    (True, 0.0)
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._running: Any = None
        self._watch = ThreadPoolExecutor(1)  # it ends with this object

    def started(self, results: Any) -> None:
        """Tells of a step that was started: its results, which are there once it has ended."""
        self._running = results

    def next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, once it is there."""
        ended = None if _ready(self._running) else self._watch.submit(_ended, self._running)
        began = time.monotonic()
        batch = next(batches)
        self._seconds += _idle(began, time.monotonic(), ended)
        return batch

    def take(self) -> float:
        """The seconds since the last call, or since the beginning."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def _ready(results: Any) -> bool:
    return all(leaf.is_ready() for leaf in jax.tree.leaves(results) if hasattr(leaf, "is_ready"))


def _ended(results: Any) -> float:
    jax.block_until_ready(results)
    return time.monotonic()


def _idle(began: float, came: float, ended: Future[float] | None) -> float:
    """The part of a wait that lies after the end of the step; `ended` is None where that had ended before."""
    if ended is None:
        return came - began
    return max(came - max(began, ended.result()), 0.0) if ended.done() else 0.0
