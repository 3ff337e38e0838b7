"""Finds the best batch size of a side of `gpu.py`, and the rate of matrix products to compare with.

Each trial has a process of its own, which frees the GPU's memory when it ends, also after a failure.
"""

import dataclasses
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from gpu_sides import SIDES, Case


@dataclasses.dataclass(frozen=True)
class Trial:
    """The result of a side at one batch size.

    Attributes:
        batch: The batch size.
        images: Images per second.
        ready: Seconds until the first steps were done, compilation included.
        peak: Peak memory of the device in bytes, or None where it is not known.
        device: Its name.
        flops: Floating-point operations per image.
    """

    batch: int
    images: float
    ready: float
    peak: int | None
    device: str
    flops: float


def best_batch(measure: Callable[[int], Trial | None], first: int, last: int) -> list[Trial]:
    """Doubles the batch size until memory is exhausted or throughput falls.

    Args:
        measure: Measures a batch size; None if it does not fit in memory.
        first: The smallest batch size.
        last: The largest batch size.

    Returns:
        The trials in order, empty if not even the first fits. `fastest` selects the best.

    Raises:
        RuntimeError: The first size failed for another reason than memory. A later failure ends the search.
    """
    found: list[Trial] = []
    batch = first
    while batch <= last:
        try:
            result = measure(batch)
        except RuntimeError as error:  # for example a process that was killed for its memory
            if not found:
                raise
            print(error, flush=True)
            break
        if result is None:
            break
        found.append(result)
        if result.images < fastest(found).images:
            break
        batch *= 2
    return found


def fastest(found: Sequence[Trial]) -> Trial:
    """Returns the trial with the most images per second."""
    return max(found, key=lambda trial: trial.images)


def in_new_process(fn: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in a new process, which frees the GPU's memory when it ends.

    Raises:
        RuntimeError: The process was killed, or the function raised it.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(fn, *args).result()
        except BrokenProcessPool:
            raise RuntimeError(f"the process of {fn.__name__}{args} was killed") from None


def trial(side: str, case: Case, batch: int, rounds: int = 3) -> Trial | None:
    """Measures a side at one batch size; None if it does not fit in memory.

    Raises:
        RuntimeError: Any other failure. The message holds the traceback, which would be lost between processes.
    """
    began = time.perf_counter()
    try:
        program = SIDES[side](case, batch)
        program.run()
        ready = time.perf_counter() - began
        seconds = [_timed(program.run) for _ in range(rounds)]
    except Exception as error:  # XLA and torch raise errors of different types
        if is_out_of_memory(error):
            return None
        raise RuntimeError(traceback.format_exc()) from None
    images = batch * case.steps / statistics.median(seconds)
    return Trial(batch, images, ready, program.peak(), program.device, program.flops / batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error of XLA, torch or Python means that memory is exhausted.

    >>> is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: ...")), is_out_of_memory(ValueError("no"))
    (True, False)
    """
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or "RESOURCE_EXHAUSTED" in text
        or "out of memory" in text.lower()
    )


def matrix_rate(sizes: tuple[int, ...], products: int = 10, rounds: int = 5) -> dict[int, float]:
    """Returns floating-point operations per second of bfloat16 matrix products by their size, in the best round."""
    import jax
    import jax.numpy as jnp

    multiply = jax.jit(lambda a, b: a @ b)
    rates = {}
    for size in sizes:
        a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)

        def run(a: Any = a, b: Any = b) -> None:
            jax.block_until_ready([multiply(a, b) for _ in range(products)])

        run()
        seconds = min(_timed(run) for _ in range(rounds))
        rates[size] = 2 * size**3 * products / seconds
    return rates


def _timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
