"""Compiled programs of a run that outlive it, found by what they were made from.

JAX keeps what XLA has compiled as well and finds it by the program itself (`compiled.py`), for which a process has to trace
its network and to lower it first: more than two of the five seconds until a U-Net's first step has ended.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import site
import sys
import sysconfig
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.stages import Compiled

from jaxseg.cli.compiled import processor

_KEPT = 64  # programs in the folder, of 0.1 to 1.3 MB each for a U-Net
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # which change programs and are not JAX's configuration


class Kept:
    """The programs of one identity in a folder; `find` makes it.

    They are pickled, as JAX does it: reading them is as safe as running the machine code that they are, which also lies in
    a folder of the user's own.

    Args:
        folder: Where they lie, with those of other identities; it need not be there.
        digest: Of all that they were made from.
        device: Of JAX, what they run on.
    """

    def __init__(self, folder: Path, digest: str, device: Any):
        self.folder, self.digest, self._device = folder, digest, device
        self._loading: dict[str, Callable[[], Compiled | None]] = {}

    def begin(self, *names: str) -> None:
        """Loads programs in the background, one after the other, for those who will read them."""
        loads = {name: load for name in names if (load := self.read(name)) is not None}
        pool = ThreadPoolExecutor(1, thread_name_prefix="jaxseg")
        self._loading = {name: pool.submit(load).result for name, load in loads.items()}
        pool.shutdown(wait=False)  # the thread ends with its last call

    def read(self, name: str) -> Callable[[], Compiled | None] | None:
        """A function that loads a program; None where there is no such program, or it is torn.

        The function returns None where the device does not take the program any more.
        """
        if name in self._loading:
            return self._loading[name]
        path = self._path(name)
        try:
            checksum, content = path.read_bytes().split(b"\n", 1)
            path.touch()  # the oldest go first
        except (OSError, ValueError):
            return None
        if checksum != _checksum(content):
            return None
        return functools.partial(_load, content, self._device)

    def write(self, name: str, compiled: Compiled) -> None:
        """Keeps a program, if it can be kept and the disk lets it: one that calls Python has no meaning elsewhere."""
        try:
            program, *trees = serialize_executable.serialize(compiled)
            content = pickle.dumps((program, *map(_example, trees)))
        except (AttributeError, NotImplementedError, TypeError, ValueError, pickle.PicklingError):
            return
        content = zlib.compress(content, level=1)
        with contextlib.suppress(OSError):
            self._keep(self._path(name), _checksum(content) + b"\n" + content)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.digest}-{name}"

    def _keep(self, path: Path, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(content)
        new.replace(path)
        files = sorted(self.folder.iterdir(), key=lambda file: file.stat().st_mtime)
        for file in files[:-_KEPT]:
            file.unlink(missing_ok=True)


def place() -> Path | None:
    """The folder of kept programs, beside those of JAX; None where JAX keeps none, or not on a disk."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    return None if not folder or "://" in folder else Path(folder) / "runs"


def find(folder: Path, identity: str, device: Any) -> Kept | None:
    """The programs of an identity in a folder; None where some code that is loaded is not installed.

    Args:
        folder: Where programs are kept.
        identity: All that makes functions of the same name differ, such as a recipe.
        device: Of JAX, what they run on.
    """
    digest = fingerprint(identity, device)
    return None if digest is None else Kept(folder, digest, device)


def fingerprint(identity: str, device: Any) -> str | None:
    """What only processes share whose programs are the same, 32 hexadecimal digits.

    It covers what the caller says (`identity`), JAX's configuration and XLA's flags, the device, its driver and the
    processor, and all code that is loaded so far, by the sizes and times of its files, as Python trusts its own compiled
    files. Code that is not installed, such as an encoder of one's own, might depend on anything, on a variable of the
    environment or on a file: with such code loaded there is none.
    """
    code = _installed_code()
    if code is None:
        return None
    configuration = sorted(jax.config.values.items()), [os.environ.get(flag) for flag in _FLAGS]
    place = device.id, device.device_kind, device.client.platform_version, processor()
    known = repr((identity, code, configuration, place))
    return hashlib.sha256(known.encode()).hexdigest()[:32]


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


def _load(content: bytes, device: Any) -> Compiled | None:
    program, args, results = pickle.loads(zlib.decompress(content))
    try:
        return serialize_executable.deserialize_and_load(
            program,
            jax.tree.structure(args),
            jax.tree.structure(results),
            backend=device.client,
            execution_devices=[device],
        )
    except jax.errors.JaxRuntimeError:
        return None


def _example(structure: Any) -> Any:
    """A tree of a structure, which itself cannot be pickled."""
    return jax.tree.unflatten(structure, range(structure.num_leaves))


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
