"""Several processes that train together: how they find each other and exchange values on their hosts."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg.errors import InputError

Result = TypeVar("Result")
HEARTBEAT_SECONDS = 20
"""Seconds without a heartbeat of one process after which the others fail."""


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connects this process to the others by `jax.distributed`; call it before anything runs on a device.

    When a process dies, the others end within a minute, so that a scheduler can start all of them again, or another number
    of them. They continue from the last checkpoint with the same global batches.

    Args:
        coordinator: `host:port` of the first process. On SLURM, GKE and TPU pods JAX finds all three arguments.
        num_processes: Number of processes.
        process_id: Index of this process, from 0.

    Raises:
        InputError: The processes do not find each other.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The service handles SIGTERM itself, so that the signal would not end a process that is still starting.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=30,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"this process cannot join others ({str(error).strip().splitlines()[0]}): outside of SLURM, GKE and TPU pods "
            "each process needs the host:port of the first one, the number of processes and its own index"
        ) from error


def is_single_process() -> bool:
    """Whether this is the only process. Looks for devices only after `initialize`."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_first_process() -> bool:
    """Whether this is the process that writes logs and shows progress."""
    return jax.process_index() == 0


def all_gather_objects(value: Any) -> list[Any]:
    """Returns the values of all processes, in the order of the processes; every process must call it.

    Args:
        value: Any value that JSON can represent.

    >>> all_gather_objects({"images": 3})
    [{'images': 3}]
    """
    if is_single_process():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(_run_on_all(_identity, np.asarray([len(text)], np.int32)))[:, 0].tolist()
    # Padded to a power of two, because each length is compiled once.
    padded = np.zeros(1 << (max(sizes) - 1).bit_length(), np.uint8)
    padded[: len(text)] = text
    texts = np.asarray(_run_on_all(_identity, padded))
    return [json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes, strict=True)]


def on_first_process(fn: Callable[[], Result]) -> Result:
    """Calls `fn` in the first process and returns its result in all of them; every process must call it.

    No process continues before `fn` has returned.

    Args:
        fn: A function whose result JSON can represent.

    Raises:
        InputError: `fn` has raised one.
        OSError: `fn` has raised one. Any other exception is raised in the first process alone, which ends all of them.

    >>> on_first_process(lambda: 3)
    3
    """
    if is_single_process():
        return fn()
    answer = all_gather_objects(_call(fn) if is_first_process() else None)[0]
    if "input" in answer:
        raise InputError(answer["input"])
    if "system" in answer:
        raise OSError(*answer["system"])
    return answer["result"]


def on_all_processes(fn: Callable[[], Result]) -> Result:
    """Calls `fn` in every process; if it fails in one of them, it fails in all.

    Args:
        fn: A function that does not communicate with other processes, such as one that opens a data set.

    Returns:
        The result of this process.

    Raises:
        InputError: `fn` has raised an `InputError` or an `OSError` in any process.

    >>> on_all_processes(lambda: 3)
    3
    """
    if is_single_process():
        return fn()
    result, failure = None, None
    try:
        result = fn()
    except (InputError, OSError) as error:
        failure = str(error)
    raise_failures(all_gather_objects(failure))
    return result  # pyright: ignore[reportReturnType] - fn has not failed


def raise_failures(failures: Sequence[str | None]) -> None:
    """Raises the first failure of any process.

    Args:
        failures: The message of each process, or None; from `all_gather_objects`.

    Raises:
        InputError: A process has failed. The message names the process, unless all have failed alike.

    >>> raise_failures([None, "no image"])
    Traceback (most recent call last):
    ...
    jaxseg.errors.InputError: process 1: no image
    """
    failed = [(index, failure) for index, failure in enumerate(failures) if failure is not None]
    if not failed:
        return
    index, failure = failed[0]
    all_alike = len(failed) == len(failures) and len({failure for _, failure in failed}) == 1
    raise InputError(failure if all_alike else f"process {index}: {failure}")


def sum_over_processes(numbers: Sequence[int]) -> jax.Array:
    """Adds up numbers of all processes on the devices, without waiting for the result; every process must call it.

    Args:
        numbers: N integers of this process, whose sums fit into int32.

    Returns:
        The sums, int32 `[N]`. Reading them waits for all programs that the devices were given before.

    >>> sum_over_processes([1, 2]).tolist()
    [1, 2]
    """
    return wait_for_gloo(_run_on_all(_sum, np.asarray(numbers, np.int32)))


def wait_for_gloo(results: Result) -> Result:
    """Returns the results of a program; on CPUs of several processes, waits until it has ended.

    CPUs run programs that do not depend on each other concurrently, where GPUs and TPUs run them in order, and gloo confuses
    the messages of two programs that run at once.
    """
    if not is_single_process() and jax.default_backend() == "cpu":
        return jax.block_until_ready(results)
    return results


def _run_on_all(fn: Callable[[jax.Array], jax.Array], local: np.ndarray) -> jax.Array:
    """Applies `fn` to the stacked arrays of all processes, on the first device of each.

    Unlike `multihost_utils.process_allgather`, it does not need two programs at once: see `wait_for_gloo`.
    """
    sharding, compiled = _compile(fn)
    return compiled(jax.make_array_from_process_local_data(sharding, local[None]))


@functools.cache
def _compile(fn: Callable[[jax.Array], jax.Array]) -> tuple[NamedSharding, Callable[..., Any]]:
    devices = [jax.local_devices(process_index=index)[0] for index in range(jax.process_count())]
    mesh = Mesh(np.asarray(devices), ("process",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("process"))
    return sharding, jax.jit(fn, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _identity(values: jax.Array) -> jax.Array:
    return values


def _sum(values: jax.Array) -> jax.Array:
    return values.sum(0)


def _call(fn: Callable[[], Any]) -> dict[str, Any]:
    """Calls `fn` and returns its result or its error as JSON can represent it."""
    try:
        return {"result": fn()}
    except InputError as error:
        return {"input": str(error)}
    except OSError as error:
        return {"system": [error.errno, error.strerror or str(error)]}
