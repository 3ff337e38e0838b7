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
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
from jax.experimental import serialize_executable
from jax.stages import Compiled, Lowered

from jaxseg.cli.compiled import processor

Load = Callable[[], Compiled | None]
Loading = dict[str, Load]

_KEPT = 128  # files in the folder: programs, of 0.1 to 1.3 MB each for a U-Net, and notes of a few bytes
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # which change programs and are not JAX's configuration
_CANNOT_BE_KEPT = (
    AttributeError,
    NotImplementedError,
    TypeError,
    ValueError,
    jax.errors.JaxRuntimeError,
    pickle.PicklingError,
)
_this_thread = threading.local()


def _listen(event: str, **_: str | int) -> None:
    """Told by JAX of its own cache: it looks there, then finds the program or has XLA compile it."""
    if event == "/jax/compilation_cache/compile_requests_use_cache":
        _this_thread.has_compiled = True
    elif event == "/jax/compilation_cache/cache_hits":
        _this_thread.has_compiled = False


jax.monitoring.register_event_listener(_listen)


class Kept:
    """The programs of one identity in a folder, which those of other identities may share.

    They are pickled, as JAX does it: reading them is as safe as running the machine code that they are, which also lies in
    a folder of the user's own.

    Args:
        folder: Where they lie; it need not be there.
        surroundings: Of `fingerprint`, what they were compiled in.
        identity: All that makes programs of the same name differ, such as a recipe.
        device: Of JAX, what they run on.
    """

    def __init__(self, folder: Path, surroundings: str, identity: str, device: Any):
        self.digest = digest(surroundings, identity)
        self._folder, self._surroundings, self._device = folder, surroundings, device
        self._loading: Loading = {}
        self._compiled: list[tuple[str, Compiled]] = []

    def read(self, name: str) -> Load | None:
        """A function that loads a program; None where there is no such program, or it is torn."""
        return self._loading.get(name) or read(self._folder, self.digest, name, self._device)

    def take(self, loading: Loading) -> None:
        """Takes over programs of this identity that are loading already, by their names."""
        self._loading = loading

    def compile(self, name: str, lowered: Lowered) -> Compiled:
        """Loads a program that another identity has compiled, or compiles it, for `write` to keep.

        What JAX has found in its own cache is not kept: a program that was loaded XLA writes, on a CPU, without its kernels.
        """
        program = digest(self._surroundings, name, lowered.as_text())
        with contextlib.suppress(OSError):
            self._keep(f"{self.digest}-{name}", program.encode())
        load = _read(self._folder / program, self._device)
        if load is not None and (loaded := load()) is not None:
            return loaded
        _this_thread.has_compiled = False
        compiled = lowered.compile()
        if _this_thread.has_compiled:
            self._compiled.append((program, compiled))
        return compiled

    def write(self) -> None:
        """Keeps what was compiled. Python stands still for a third of a second, XLA does not."""
        while self._compiled:
            self._write(*self._compiled.pop())

    def _write(self, program: str, compiled: Compiled) -> None:
        """Keeps a program, if it can be kept and the disk lets it: one that calls Python has no meaning elsewhere."""
        try:
            code, *trees = serialize_executable.serialize(compiled)
            content = zlib.compress(pickle.dumps((code, *map(_example, trees))), level=1)
        except _CANNOT_BE_KEPT:
            return
        with contextlib.suppress(OSError):
            self._keep(program, _checksum(content) + b"\n" + content)

    def _keep(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / f"{name}.{os.getpid()}"
        new.write_bytes(content)
        new.replace(self._folder / name)
        files = sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime)
        for file in files[:-_KEPT]:
            file.unlink(missing_ok=True)


def read(folder: Path, digest: str, name: str, device: Any) -> Load | None:
    """`Kept.read` for the digest of an identity."""
    note = folder / f"{digest}-{name}"
    try:
        program = note.read_text()
        note.touch()  # the oldest go first
    except (OSError, UnicodeDecodeError):
        return None
    return _read(folder / program, device)


def _read(path: Path, device: Any) -> Load | None:
    try:
        checksum, content = path.read_bytes().split(b"\n", 1)
        path.touch()
    except (OSError, ValueError):
        return None
    return None if checksum != _checksum(content) else functools.partial(_load, content, device)


def place() -> Path | None:
    """The folder of kept programs, beside those of JAX; None where JAX keeps none, or not on a disk."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    return None if not folder or "://" in folder else Path(folder) / "runs"


def fingerprint(device: Any) -> str | None:
    """What differs where programs of the same name and identity do; None where that is not known.

    It covers JAX's configuration and XLA's flags, the device, its driver and the processor, and all code that is loaded so
    far, by the sizes and times of its files, as Python trusts its own compiled files. Code that is not installed, such as an
    encoder of one's own, might depend on anything, on a variable of the environment or on a file.
    """
    code = _installed_code()
    if code is None:
        return None
    configuration = sorted(jax.config.values.items()), [os.environ.get(flag) for flag in _FLAGS]
    where = device.id, device.device_kind, device.client.platform_version, processor()
    return digest(repr((code, configuration, where)))


def digest(*texts: str) -> str:
    """32 hexadecimal digits that only equal texts share."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


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
    """The program; None where the device does not take it any more."""
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
