"""Grain iterators that read ahead in threads or in worker processes, and end these in time."""

import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
from absl import flags

from jaxseg.errors import InputError

_SHARED_MEMORY = Path("/dev/shm")


class Batches(Iterator[dict[str, Any]]):
    """An iterator that owns worker processes: its end, an error, `close()` and `with` end them.

    Args:
        batches: The iterator of the batches.
        close: Called once, at the end.

    >>> ended = []
    >>> with Batches(iter([{"image": 1}]), lambda: ended.append(True)) as batches:
    ...     list(batches), ended
    ([{'image': 1}], [True])
    """

    def __init__(self, batches: Iterator[dict[str, Any]], close: Callable[[], None]):
        self._batches, self._close = batches, close

    def __next__(self) -> dict[str, Any]:
        try:
            return next(self._batches)
        except BaseException:  # the end, or an error: no batch follows
            self.close()
            raise

    def close(self) -> None:
        """Ends the workers; further calls do nothing."""
        close, self._close = self._close, lambda: None
        close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def iterate(dataset: grain.MapDataset, num_workers: int, *, ahead: int) -> Batches:
    """Returns an iterator over a Grain data set in its order, which reads ahead.

    Args:
        dataset: Elements that are dictionaries of arrays.
        num_workers: Worker processes; 0 reads in threads of this process.
        ahead: The number of elements that each worker, or all threads together, may read ahead.

    Returns:
        An iterator over the same elements for any number of workers.
    """
    if num_workers and not _fits(dataset, num_workers, ahead):
        num_workers = 0
    if not num_workers:
        threads = min(4, os.cpu_count() or 1)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
        iterator = iter(dataset.to_iter_dataset(options))
        return Batches(iterator, iterator.close)

    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which must be parsed before
        flags.FLAGS.mark_as_parsed()
    # Arrays are freed by the thread that drops them: another thread would be killed at the process's end.
    grain.multiprocessing.SharedMemoryArray.enable_async_del(1, max_outstanding_requests=1)
    elements = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=ahead)
    iterator = iter(elements.mp_prefetch(options, worker_init_fn=_start_worker))
    return Batches(iterator, iterator.close)


def _fits(dataset: grain.MapDataset, num_workers: int, ahead: int) -> bool:
    """Returns whether the elements that workers hold at once fit into shared memory; an overrun would kill them."""
    if not _SHARED_MEMORY.is_dir():
        return True
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if (
        free > 2**31
    ):  # usual outside containers; reading an element to measure it is not worth the time
        return True
    try:
        first: Any = dataset[0]
    except InputError:
        return True  # a worker will report it
    size = sum(getattr(leaf, "nbytes", 0) for leaf in first.values())
    needed = 4 * size * num_workers * ahead
    if needed > free:
        logging.getLogger(__name__).warning(
            "%d workers may need %d MiB of shared memory and %s has %d free: reading in threads,"
            " which gives the same batches (in a container, raise --shm-size)",
            num_workers,
            needed >> 20,
            _SHARED_MEMORY,
            free >> 20,
        )
    return needed <= free


def _start_worker(index: int, count: int) -> None:
    """Sets up a worker, which leaves signals, cores and devices to its parent and ends with it."""
    import cv2
    import jax

    # Ctrl-C and schedulers signal the whole process group: the parent saves first, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
