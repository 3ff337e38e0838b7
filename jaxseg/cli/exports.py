"""Traced programs that outlive their process: what one run has traced, later runs of the same recipe read.

JAX keeps what XLA has compiled and finds it by the program itself (`compiled.py`), for which a process has to trace its
network first: two of the five seconds until a U-Net's first step has ended. These are programs as they are before XLA sees
them (StableHLO, by `jax.export`), found by all that they were traced from.
"""

import contextlib
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import export

from jaxseg.compiler import uncollected

_KEPT = 64  # programs in the folder, of 0.1 to 0.5 MB each for a U-Net


class Exports:
    """The programs of one identity in a folder; `find` makes it.

    Args:
        folder: Where they lie, with those of other identities; it need not be there.
        digest: Of all that they were traced from.
    """

    def __init__(self, folder: Path, digest: str):
        self._folder, self._digest = folder, digest

    def read(self, name: str) -> export.Exported | None:
        """A program that `write` has kept; None where there is none, or it is torn."""
        path = self._path(name)
        try:
            checksum, content = path.read_bytes().split(b"\n", 1)
            path.touch()  # the oldest go first
        except (OSError, ValueError):
            return None
        return export.deserialize(bytearray(content)) if checksum == _checksum(content) else None

    def write(self, name: str, fn: Callable[..., Any], *args: Any) -> export.Exported | None:
        """Traces a function, and keeps the program if the disk lets it.

        Args:
            name: What to keep it as.
            fn: A pure function; its arguments and results are arrays in dictionaries, lists and tuples.
            *args: Arrays or their `jax.ShapeDtypeStruct`.

        Returns:
            What `read` gives from now on; None for a function that JAX cannot export, such as one that calls Python.
        """
        compiled = jax.jit(fn)
        with uncollected():
            compiled.trace(*args)  # here the function's own errors are raised
            try:
                program = export.export(compiled)(*args)
                content = bytes(program.serialize())
            except (NotImplementedError, ValueError):
                return None
        with contextlib.suppress(OSError):
            self._keep(self._path(name), _checksum(content) + b"\n" + content)
        return program

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._digest}-{name}"

    def _keep(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(content)
        new.replace(path)
        files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime)
        for file in files[:-_KEPT]:
            file.unlink(missing_ok=True)


def find(folder: Path, identity: str) -> Exports | None:
    """The programs of an identity in a folder.

    They are those of an earlier process only if nothing has changed that they were traced from: what the caller says
    (`identity`), JAX's configuration, the kind of device, and all code that is loaded, by the sizes and times of its files,
    as Python trusts its own compiled files. Code that is not installed, such as an encoder of one's own, might depend on
    anything, on a variable of the environment or on a file: with such code loaded nothing is kept.

    Args:
        folder: Where programs are kept.
        identity: All that makes functions of the same name differ, such as a recipe.

    Returns:
        The programs, or None where some code is not installed.
    """
    code = _installed_code()
    if code is None:
        return None
    device = jax.devices()[0]
    known = (identity, code, sorted(jax.config.values.items()), device.platform, device.device_kind)
    return Exports(folder, hashlib.sha256(repr(known).encode()).hexdigest()[:32])


def _installed_code() -> list[tuple[str, int, int]] | None:
    """Path, size and time of each file of code that is loaded; None where one is neither installed nor jaxseg's."""
    places = [
        *site.getsitepackages(),
        site.getusersitepackages(),
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        sysconfig.get_path("scripts"),
        str(Path(__file__).parents[1]),
    ]
    installed = tuple(f"{place}{os.sep}" for place in places)
    paths = {getattr(module, "__file__", None) for module in _modules()}
    code = []
    for path in sorted(path for path in paths if path is not None):
        if not path.startswith(installed) or not os.path.exists(path):  # it may be in an archive
            return None
        stat = os.stat(path)
        code.append((path, stat.st_size, stat.st_mtime_ns))
    return code


def _modules() -> list[Any]:
    return list(sys.modules.values())


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
