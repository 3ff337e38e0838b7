"""`jaxseg COMMAND ...`: runs a command; a user's mistake ends with a message and exit code 2."""

import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from jaxseg import __version__, errors

COMMANDS = {
    "train": "train a model: [RECIPE.py] [--resume RUN] [--field value ...]",
    "evaluate": "compute a run's scores again, from its checkpoint: RUN [--split test]",
    "predict": "predict images: RUN IMAGE_OR_FOLDER... --out DIR",
    "report": "write a run's report.html again: RUN",
    "models": "list architectures and encoders",
    "datasets": "show or check a data set: show|check [RECIPE.py] [--field value ...]",
}

_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EFBIG,
}  # a user can mend these


def program() -> None:
    """The `jaxseg` program: `main` with JAX's persistent compilation cache."""
    from jaxseg.cli import compilation_cache

    compilation_cache.enable()
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words after `jaxseg`; those of `sys.argv` by default.

    Returns:
        The exit code: 0; 2 for input that cannot be used; 130 for Ctrl-C before training began.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: jaxseg COMMAND ...\n")
        print("\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items()))
        print("\n`jaxseg COMMAND --help` says more.")
        return 0
    if arguments[0] == "--version":
        print(f"jaxseg {__version__}")
        return 0
    _quiet()
    if (
        os.getcwd() not in sys.path
    ):  # for a user's modules; a console script has its own folder there
        sys.path.append(os.getcwd())
    try:
        if arguments[0] not in COMMANDS:
            raise errors.unknown("command", arguments[0], COMMANDS)
        command = importlib.import_module(f"jaxseg.cli.{arguments[0]}")
        return command.main(arguments[1:])
    except errors.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if error.errno not in _DISK:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _quiet() -> None:
    """Silences loggers of libraries: Orbax logs tracebacks of errors that it also raises, JAX its search for a GPU."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
