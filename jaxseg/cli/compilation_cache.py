"""JAX's persistent compilation cache: later runs load what an earlier one compiled."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import filelock


def enable() -> None:
    """Sets the environment for JAX's compilation cache; call it before JAX is imported. Variables that are set stay."""
    chosen = settings(os.environ)
    folder = Path(chosen["JAX_COMPILATION_CACHE_DIR"])
    with contextlib.suppress(OSError):  # no home folder, or a full disk: every run compiles
        folder.mkdir(parents=True, exist_ok=True)
        drop_torn(folder)
        for name, value in chosen.items():
            os.environ.setdefault(name, value)


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables of JAX's compilation cache.

    The cache lies in the user's cache folder, holds 2 GiB at most, and is separate for each kind of processor: home
    folders are shared by different machines, and a program for one does not run on another. Programs that take 0.1 s to
    compile are stored, not only those that take a second, since a run has several of them.

    >>> chosen = settings({"XDG_CACHE_HOME": "/cache"})
    >>> chosen["JAX_COMPILATION_CACHE_DIR"].startswith("/cache/jaxseg/xla-")
    True
    """
    caches = environment.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return {
        "JAX_COMPILATION_CACHE_DIR": os.path.join(caches, "jaxseg", f"xla-{kind}"),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2 * 2**30),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def drop_torn(folder: Path) -> None:
    """Removes half-written programs of killed processes, which JAX would try to load.

    JAX writes a program and then, under the same lock, the time of its last use: a program without the second is torn.
    """
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / ".lockfile", timeout=1):
        for program in folder.glob("*-cache"):
            if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").exists():
                program.unlink()


def _processor() -> str:
    """Returns the kind of the processor, and on Linux its instruction sets."""
    text = platform.machine() + platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return text
    return text + "".join(flags[:1])
