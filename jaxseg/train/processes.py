"""How the processes of a run find each other, and what they tell one another on their hosts."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.errors import InputError

Result = TypeVar("Result")
HEARTBEAT = 20
"""After so many seconds without a sign of life from one process the others stop with an error."""


def join(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Makes this process one of several that train together; call it before anything runs on a device.

    A process that dies ends the others within a minute, so that whoever started them can start them again; each goes on
    from the last checkpoint, and as many of them as there are then share the same global batches.

    Args:
        coordinator: `host:port` of the first process; on SLURM, GKE and TPU pods JAX finds all three itself.
        count: How many processes there are.
        index: Which of them this is, from 0.

    Raises:
        InputError: The processes do not find each other.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It takes SIGTERM for itself, and with it the end of a process that is still starting.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=30,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"this process cannot join others ({str(error).strip().splitlines()[0]}): outside of SLURM, GKE and TPU pods "
            "each needs the host:port of the first, how many there are, and which of them it is"
        ) from error


def alone() -> bool:
    """Whether there are no other processes; it looks for devices only where there may be."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_first() -> bool:
    """Whether this process is the one that writes logs and shows progress."""
    return jax.process_index() == 0


def exchange(value: Any) -> list[Any]:
    """What every process says, in their order; every process must call it.

    Args:
        value: What JSON can hold.

    >>> exchange({"images": 3})
    [{'images': 3}]
    """
    if alone():
        return [value]
    said = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(_everywhere(_each, np.asarray([len(said)], np.int32)))[:, 0].tolist()
    # A power of two, for each length is one compilation.
    padded = np.zeros(1 << (max(sizes) - 1).bit_length(), np.uint8)
    padded[: len(said)] = said
    texts = np.asarray(_everywhere(_each, padded))
    return [json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes, strict=True)]


def on_first(work: Callable[[], Result]) -> Result:
    """Runs `work` in the first process alone and gives its result, or its failure, to all of them.

    Every process must call it; none goes on before the work is done.

    Args:
        work: Returns what JSON can hold.

    Raises:
        InputError: The work failed with one.
        OSError: The work failed with one; other exceptions are the first process's alone, which ends them all.

    >>> on_first(lambda: 3)
    3
    """
    if alone():
        return work()
    answer = exchange(_answer(work) if is_first() else None)[0]
    if "input" in answer:
        raise InputError(answer["input"])
    if "system" in answer:
        raise OSError(*answer["system"])
    return answer["result"]


def on_all(work: Callable[[], Result]) -> Result:
    """Runs `work` in every process; where it fails in one, it fails in all of them.

    Args:
        work: What needs no other process, such as to open a data set.

    Returns:
        This process's result.

    Raises:
        InputError: The work failed with one, or with an `OSError`, in any process.

    >>> on_all(lambda: 3)
    3
    """
    if alone():
        return work()
    result, failure = None, None
    try:
        result = work()
    except (InputError, OSError) as error:
        failure = str(error)
    fail_together(exchange(failure))
    return result  # pyright: ignore[reportReturnType] - the work has not failed


def fail_together(failures: Sequence[str | None]) -> None:
    """Raises an `InputError` where a process has failed.

    Args:
        failures: What is wrong with each process, as of `exchange`.

    >>> fail_together([None, "no image"])
    Traceback (most recent call last):
    ...
    jaxseg.errors.InputError: process 1: no image
    """
    known = [(index, failure) for index, failure in enumerate(failures) if failure is not None]
    if not known:
        return
    index, failure = known[0]
    everywhere = len(known) == len(failures) and len({failure for _, failure in known}) == 1
    raise InputError(failure if everywhere else f"process {index}: {failure}")


def total(numbers: Sequence[int]) -> jax.Array:
    """The sums over all processes, on the devices, before whatever runs there later; every process must call it.

    Args:
        numbers: This process's, whose sums fit into int32.

    Returns:
        int32, as many; nobody waits for them before they are read.

    >>> total([1, 2]).tolist()
    [1, 2]
    """
    return settled(_everywhere(_sum, np.asarray(numbers, np.int32)))


def settled(results: Result) -> Result:
    """What a program of several processes gives; on CPUs once it has ended.

    Gloo takes what two programs send at once for one another's, and CPUs run programs that do not wait for each other at
    once, where GPUs and TPUs run them in turn.
    """
    if not alone() and jax.default_backend() == "cpu":
        return jax.block_until_ready(results)
    return results


def _everywhere(fn: Callable[[jax.Array], jax.Array], mine: np.ndarray) -> jax.Array:
    """A function of what all processes have, stacked; on the first device of each.

    `multihost_utils.process_allgather` does so on all devices and waits for the first: see `settled`.
    """
    divided, compiled = _compiled(fn)
    return compiled(jax.make_array_from_process_local_data(divided, mine[None]))


@functools.cache
def _compiled(fn: Callable[[jax.Array], jax.Array]) -> tuple[NamedSharding, Callable[..., Any]]:
    indices = range(jax.process_count())
    devices = [jax.local_devices(process_index=index)[0] for index in indices]
    mesh = Mesh(np.asarray(devices), ("process",), axis_types=(AxisType.Auto,))
    divided, whole = (
        NamedSharding(mesh, PartitionSpec("process")),
        NamedSharding(mesh, PartitionSpec()),
    )
    return divided, jax.jit(fn, out_shardings=whole)


def _each(values: jax.Array) -> jax.Array:
    return values


def _sum(values: jax.Array) -> jax.Array:
    return values.sum(0)


def _answer(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": work()}
    except InputError as error:
        return {"input": str(error)}
    except OSError as error:
        return {"system": [error.errno, error.strerror or str(error)]}
