"""How a run ends before its time: by a signal, or by the failure of one process, and then in all of them alike."""

import contextlib
import signal
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxseg.errors import InputError
from jaxseg.train import processes

Batch = Mapping[str, Any]


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A stop was requested."""


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a request that the loop answers after the step in flight.

    A second signal acts as it would have without this class.

    Attributes:
        requested: Whether this process got a signal.
        answered: Whether the run has ended for it, in all processes.
    """

    def __init__(self) -> None:
        self.requested = False
        self.answered = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Listens while the block runs."""
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
        """What to raise where the request is answered."""
        self.answered = True
        return Stopped()


def until_stopped(batches: Iterable[Batch], stop: StopRequest) -> Iterator[Batch]:
    """Batches until a stop is requested; all processes of a run get as many.

    Where there are several, each says before every batch whether it was asked to stop, whether it has a batch and
    whether that lacks records. What they say is added up on the devices before the step on the batch before it, so that
    nobody waits for a step: a run of several processes takes one more step before it stops.

    Args:
        batches: This process's part of each global batch; `"unreadable"`, the records that it lacks, becomes that of
            all processes, and `"global_names"` must be the same in all of them.
        stop: Asked before each batch.

    Raises:
        Stopped: A stop was requested, of any process.
        InputError: A batch cannot be had, in any process, or their batches are not of one and the same data set.

    >>> list(until_stopped([{"image": 1}], StopRequest()))
    [{'image': 1}]
    """
    batches = iter(batches)
    if processes.alone():
        return _alone(batches, stop)
    return _together(batches, stop)


def _alone(batches: Iterator[Batch], stop: StopRequest) -> Iterator[Batch]:
    while True:
        if stop.requested:
            raise stop.answer()
        try:
            batch = next(batches, None)
        except InputError:
            if stop.requested:  # the signal ended the loader's processes as well
                raise stop.answer() from None
            raise
        if batch is None:
            return
        yield batch


def _together(batches: Iterator[Batch], stop: StopRequest) -> Iterator[Batch]:
    ahead = _Ahead(batches, stop)
    while (batch := ahead.agreed(stop)) is not None:
        ahead = _Ahead(batches, stop)
        yield batch


class _Ahead:
    """A batch, and what all processes say of theirs, which is known a little later."""

    def __init__(self, batches: Iterator[Batch], stop: StopRequest):
        self._batch: Batch | None = None
        self._failure: str | None = None
        try:
            self._batch = next(batches, None)
        except (InputError, RuntimeError) as error:
            self._failure = str(error)
        self._print = 0 if self._batch is None else _print(self._batch.get("global_names", ()))
        lacks = bool(self._batch and self._batch.get("unreadable"))
        self._said = processes.total(
            [stop.requested, self._failure is not None, lacks, self._print]
        )

    def agreed(self, stop: StopRequest) -> Batch | None:
        """The batch, None at the end; or what all processes raise."""
        requested, failed, lacking, prints = np.asarray(self._said).tolist()
        if requested:
            raise stop.answer()
        if failed:
            processes.fail_together(processes.exchange(self._failure))
        if prints != self._print * jax.process_count():
            raise InputError(
                "the processes do not read the same images: their data sets must be copies of each other"
            )
        if lacking and self._batch is not None:
            said = processes.exchange(self._batch.get("unreadable", []))
            return {**self._batch, "unreadable": [problem for each in said for problem in each]}
        return self._batch


def _print(names: Iterable[str]) -> int:
    """A number of names, small enough for those of all processes to be added up."""
    return 1 + zlib.crc32("\n".join(names).encode()) % 2**16
