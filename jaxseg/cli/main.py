"""`jaxseg COMMAND ...`: finds the command's file and turns what a user can mend into exit code 2."""

import errno
import gc
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from jaxseg import __version__, errors

COMMANDS = {
    "train": "train a model: [RECIPE.py] [--resume RUN] [--field value ...]",
    "evaluate": "the numbers of a run again, from its checkpoint: RUN [--split test]",
    "predict": "segment images: RUN IMAGE_OR_FOLDER... --out DIR",
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
    """The `jaxseg` program: `main` with compiled programs kept, and with memory in huge pages, where Linux has them.

    A train step on a CPU frees and takes hundreds of megabytes; in pages of 4 kB it is some 7 % slower (`pages.py`). The
    allocator reads its settings when a process starts, so the program starts itself again, once.
    """
    tunables = "GLIBC_TUNABLES"
    if sys.platform == "linux" and tunables not in os.environ:
        environment = os.environ | {tunables: "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    from jaxseg.cli import compiled  # only now: the process that ends here needs none of it

    compiled.keep()
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: What stands behind `jaxseg`; `sys.argv` when left out.

    Returns:
        The exit code: 0, or 2 for input that cannot be used, or 130 for Ctrl-C before training began.
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
    ):  # for encoders of one's own; a console script has its own folder there
        sys.path.append(os.getcwd())
    try:
        if arguments[0] not in COMMANDS:
            raise errors.unknown("command", arguments[0], COMMANDS)
        gc.disable()  # modules stay: looking through them takes a sixth of the import, and of tracing
        command = importlib.import_module(f"jaxseg.cli.{arguments[0]}")
        gc.freeze()
        gc.enable()
        return command.main(arguments[1:])
    except errors.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
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
    """Orbax logs the traceback of what it raises as well, its event loop too, and JAX that it looked for a GPU."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
