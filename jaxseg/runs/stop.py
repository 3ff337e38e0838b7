"""Early ends of a run, by a signal or by the failure of one process, at the same step in all processes."""

import contextlib
import signal
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxseg.errors import InputError
from jaxseg.parallel import processes

HostBatch = Mapping[str, Any]


class Stopped(Exception):  # noqa: N818 - not an error
    """A stop was requested."""


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a request, which the loop answers after the step in flight.

    A second signal has its usual effect.

    Attributes:
        requested: Whether this process has received a signal.
        answered: Whether the run has ended because of a request, in all processes.
    """

    def __init__(self) -> None:
        self.requested = False
        self.answered = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handles the signals in the block."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in signals}

        def request(number: int, frame: Any) -> None:
            self.requested = True
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in signals:
            signal.signal(number, request)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def answer(self) -> Stopped:
        """Marks the request as answered and returns the exception to raise."""
        self.answered = True
        return Stopped()


def until_stopped(batches: Iterable[HostBatch], stop: StopRequest) -> Iterator[HostBatch]:
    """Yields batches until a stop is requested; all processes of a run get the same number of batches.

    With several processes, each shares before every batch whether a stop was requested, whether it has a batch, and whether
    that batch lacks records. Their sums are computed on the devices before the step of the previous batch, so that no process
    waits for a step: a run of several processes runs one more step before it stops.

    Args:
        batches: This process's part of each global batch. `"unreadable"` lists the records that it lacks, and is replaced by
            the list of all processes; `"global_names"` must be the same in all of them.
        stop: Checked before each batch.

    Raises:
        Stopped: A stop was requested in any process.
        InputError: A batch cannot be loaded in any process, or the processes read different data sets.

    >>> list(until_stopped([{"image": 1}], StopRequest()))
    [{'image': 1}]
    """
    batches = iter(batches)
    if processes.is_single_process():
        return _in_one_process(batches, stop)
    return _in_all_processes(batches, stop)


def _in_one_process(batches: Iterator[HostBatch], stop: StopRequest) -> Iterator[HostBatch]:
    while True:
        if stop.requested:
            raise stop.answer()
        try:
            batch = next(batches, None)
        except InputError:
            if stop.requested:  # the signal has also ended the processes of the loader
                raise stop.answer() from None
            raise
        if batch is None:
            return
        yield batch


def _in_all_processes(batches: Iterator[HostBatch], stop: StopRequest) -> Iterator[HostBatch]:
    following = _SharedBatch(batches, stop)
    while (batch := following.result(stop)) is not None:
        following = _SharedBatch(batches, stop)
        yield batch


class _SharedBatch:
    """The next batch of this process, and the state of those of all processes, which is read later."""

    def __init__(self, batches: Iterator[HostBatch], stop: StopRequest):
        self._batch: HostBatch | None = None
        self._failure: str | None = None
        try:
            self._batch = next(batches, None)
        except (InputError, RuntimeError) as error:
            self._failure = str(error)
        names = () if self._batch is None else self._batch.get("global_names", ())
        self._checksum = 0 if self._batch is None else _checksum(names)
        lacks_records = bool(self._batch and self._batch.get("unreadable"))
        self._sums = processes.sum_over_processes(
            [stop.requested, self._failure is not None, lacks_records, self._checksum]
        )

    def result(self, stop: StopRequest) -> HostBatch | None:
        """Returns the batch, or None at the end; raises the same error in all processes."""
        requested, failed, lacking, checksums = np.asarray(self._sums).tolist()
        if requested:
            raise stop.answer()
        if failed:
            processes.raise_failures(processes.all_gather_objects(self._failure))
        if checksums != self._checksum * jax.process_count():
            raise InputError(
                "the processes do not read the same images: their data sets must be copies of each other"
            )
        if lacking and self._batch is not None:
            lists = processes.all_gather_objects(self._batch.get("unreadable", []))
            return {**self._batch, "unreadable": [problem for each in lists for problem in each]}
        return self._batch


def _checksum(names: Iterable[str]) -> int:
    """Returns a positive checksum that is small enough to be added up over all processes in int32."""
    return 1 + zlib.crc32("\n".join(names).encode()) % 2**16
