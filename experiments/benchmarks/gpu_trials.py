"""What `gpu.py` measures of a side before the turns: its best batch, and the rate of matrix products to compare with.

Each trial has a process of its own, so that the GPU's memory is whole again and one that ends is no harm to the next.
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
    """What a side did at one size of its batch.

    Attributes:
        batch: The size.
        images: Images a second.
        ready: Seconds until the first steps were done, compiling included.
        peak: As of `Program`.
        device: As of `Program`.
        flops: Floating-point operations for an image.
    """

    batch: int
    images: float
    ready: float
    peak: int | None
    device: str
    flops: float


def best_batch(tried: Callable[[int], Trial | None], first: int, last: int) -> list[Trial]:
    """Doubles the batch until memory ends or throughput falls.

    Args:
        tried: Measures a size, None where memory does not hold it.
        first: The batch to begin with.
        last: The largest that is tried.

    Returns:
        The trials in their order; none where not even the first fits. `fastest` chooses.

    Raises:
        RuntimeError: The first size failed otherwise; a later one that does ends the search.
    """
    found: list[Trial] = []
    batch = first
    while batch <= last:
        try:
            result = tried(batch)
        except RuntimeError as error:  # such as a process that was killed for its memory
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
    """That of most images a second."""
    return max(found, key=lambda trial: trial.images)


def apart(fn: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in a new process, which gives the GPU's memory back.

    Raises:
        RuntimeError: The process was killed, or what the function raised.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(fn, *args).result()
        except BrokenProcessPool:
            raise RuntimeError(f"the process of {fn.__name__}{args} was killed") from None


def trial(side: str, case: Case, batch: int, rounds: int = 3) -> Trial | None:
    """A side at one size of its batch; None where memory ends.

    Raises:
        RuntimeError: Anything else went wrong; the message is the whole traceback, which travels between processes.
    """
    began = time.perf_counter()
    try:
        program = SIDES[side](case, batch)
        program.run()
        ready = time.perf_counter() - began
        seconds = [_timed(program.run) for _ in range(rounds)]
    except Exception as error:  # XLA and torch each have kinds of their own for it
        if is_out_of_memory(error):
            return None
        raise RuntimeError(traceback.format_exc()) from None
    images = batch * case.steps / statistics.median(seconds)
    return Trial(batch, images, ready, program.peak(), program.device, program.flops / batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of XLA, torch or Python says that memory has ended.

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
    """Floating-point operations a second of bfloat16 products of random square matrices, by their size: the best round."""
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
