"""Traced programs that outlive their process: what one run has traced, later runs of the same recipe read.

JAX keeps what XLA has compiled and finds it by the program itself (`compiled.py`), for which a process has to trace its
network first: two of the five seconds until a U-Net's first step has ended. These are programs as they are before XLA sees
them (StableHLO, by `jax.export`), found by all that they were traced from.
"""

import contextlib
import glob
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.stages import Compiled

from jaxseg import compiler

_TRACED = ("jaxseg", "flax", "optax", "chex")
_KEPT = 64  # files in the folder, of 0.1 to 0.5 MB each for a U-Net


class Exports:
    """The programs of one identity in a folder.

    Args:
        folder: Where they lie, with those of other identities; it need not be there.
        digest: Of all that they were traced from.
    """

    def __init__(self, folder: Path, digest: str):
        self.digest = digest
        self._folder = folder

    def read(self, name: str) -> export.Exported | None:
        """A program that `write` has kept; None where there is none, or it is torn."""
        path = self._path(name)
        try:
            checksum, content = path.read_bytes().split(b"\n", 1)
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            path.touch()  # the oldest go first
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
        traced = jax.jit(fn)
        with compiler.uncollected():
            traced.trace(*args)  # here the function's own errors are raised
            try:
                program = export.export(traced)(*args)
                content = bytes(program.serialize())
            except (NotImplementedError, ValueError):
                return None
        with contextlib.suppress(OSError):
            self._keep(self._path(name), _checksum(content) + b"\n" + content)
        return program

    def _path(self, name: str) -> Path:
        return self._folder / f"{self.digest}-{name}"

    def _keep(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(content)
        new.replace(path)
        files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime)
        for file in files[:-_KEPT]:
            file.unlink(missing_ok=True)


def begin(name: str, program: export.Exported) -> Future[Compiled]:
    """Begins to compile a program in the background, or to load what a run before has compiled.

    It is lowered in this thread: JAX imports for that, and two threads should not import at once.

    Args:
        name: `"init"`, which runs once, or `"step"`, whose first argument is given away.
        program: As of `Exports`.
    """
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for x in program.in_avals]
    args, _ = jax.tree.unflatten(program.in_tree, shapes)
    with compiler.uncollected():
        if name == "init":
            lowered = compiler.jit_once(program.call).lower(*args)
        else:
            lowered = compiler.jit(program.call, donate_argnums=0).lower(*args)
    return compiler.in_background(lowered.compile)


def place() -> Path | None:
    """The folder of kept programs, beside those of JAX; None where JAX keeps none, or not on a disk."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    return None if not folder or "://" in folder else Path(folder) / "traced"


def digest(identity: str) -> str | None:
    """What only processes share that trace the same programs, 32 hexadecimal digits; None where that is not known.

    It covers what the caller says (`identity`), JAX's configuration, the kind of device, all packages by when they were
    installed, and those that traces go through by the sizes and times of the files that are loaded so far, as Python trusts
    its own compiled files. Code that is not installed, such as an encoder of one's own, might depend on anything, on a
    variable of the environment or on a file.

    Args:
        identity: All that makes functions of the same name differ, such as a recipe.
    """
    code = _code()
    if code is None:
        return None
    device = jax.devices()[0]
    known = (identity, code, sorted(jax.config.values.items()), device.platform, device.device_kind)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:32]


def _code() -> list[tuple[str, int, int]] | None:
    """Path, size and time of files that tell code apart; None where some that is loaded is neither installed nor jaxseg's.

    Of what traces go through, of each file that is loaded; of all packages, for JAX imports others when it needs them, of
    the folder that is made when they are installed, which is named after the version.
    """
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    others = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "scripts")]
    own = str(Path(__file__).parents[1])
    installed = tuple(f"{place}{os.sep}" for place in (*packages, *others, own))
    paths = []
    for name, module in _modules().items():
        path = getattr(module, "__file__", None)
        if path is None:
            continue
        if not path.startswith(installed) or not os.path.exists(path):  # it may be in an archive
            return None
        if name.partition(".")[0] in _TRACED:
            paths.append(path)
    for place in packages:
        paths += glob.glob(os.path.join(glob.escape(place), "*-info"))
    stats = [(path, os.stat(path)) for path in sorted(paths)]
    return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _modules() -> dict[str, Any]:
    return dict(sys.modules)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
