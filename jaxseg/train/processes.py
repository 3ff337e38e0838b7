"""What one process does for all of them, where a run has several."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

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
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=30
    )


def is_first() -> bool:
    """Whether this process is the one that writes logs and shows progress."""
    return jax.process_index() == 0


def on_first(work: Callable[[], Result]) -> Result:
    """Runs `work` in the first process alone and gives its result, or its failure, to all of them.

    Every process must call it; none goes on before the work is done.

    Args:
        work: Returns what JSON can hold.

    Raises:
        OSError: The work failed with one; other exceptions are the first process's alone, which ends them all.

    >>> on_first(lambda: 3)
    3
    """
    if jax.process_count() == 1:
        return work()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"result": work()}
        except OSError as error:
            answer = {"error": [error.errno, error.strerror or str(error)]}
    said = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(said))))
    padded = said if is_first() else np.zeros(size, np.uint8)
    answer = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    if "error" in answer:
        raise OSError(*answer["error"])
    return answer["result"]
