"""Options of `jaxseg train` for several processes; they say where a run happens and are not part of its recipe."""

import argparse
import os
import sys
import time
import traceback
from typing import Any, NoReturn

import jax

from jaxseg.errors import InputError
from jaxseg.parallel import processes

HELP = """  --distributed  one of the processes that SLURM, GKE or a TPU pod has started, which are found by themselves
  --coordinator HOST:PORT --num-processes N --process-id I   the same, started by hand: the first one's address, I from 0"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a command's own."""
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)


def join(options: argparse.Namespace) -> bool:
    """Joins the other processes if the options ask for it; call it before JAX looks for devices.

    Returns:
        Whether there are other processes.

    Raises:
        InputError: The options exclude each other, or no other process is found.
    """
    found = _others(options)
    if found is None:
        return False
    processes.initialize(*found)
    return True


def _others(options: argparse.Namespace) -> tuple[Any, ...] | None:
    """Returns the arguments of `processes.initialize`; None for a single process."""
    given = {
        "--coordinator": options.coordinator,
        "--num-processes": options.num_processes,
        "--process-id": options.process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return () if options.distributed else None
    if options.distributed:
        raise InputError(
            f"--distributed finds the other processes by itself: give it, or {', '.join(given)}"
        )
    if missing:
        raise InputError(f"{', '.join(given)} go together, this lacks {' and '.join(missing)}")
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(
            f"--coordinator is {options.coordinator!r}: give the first process's HOST:PORT, such as node0:1234"
        )
    if not 0 <= options.process_id < options.num_processes:
        raise InputError(
            f"--process-id is {options.process_id}, but --num-processes {options.num_processes}: processes count from "
            "0 on, and there is one at least"
        )
    return options.coordinator, options.num_processes, options.process_id


def leave(error: Exception) -> NoReturn:
    """Ends this process, one of several, at once after an error: JAX would wait for processes that are gone."""
    sys.stdout.flush()
    if isinstance(error, InputError):
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)
        print(
            "error: this process has failed or has lost another; start all of them again, or another number of them, "
            "with --resume",
            file=sys.stderr,
            flush=True,
        )
    if jax.process_index() == 0:
        time.sleep(3)  # it coordinates the others, which print their messages first
    os._exit(2 if isinstance(error, InputError) else 1)
