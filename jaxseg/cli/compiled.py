"""Compiled programs that outlive their process: what one run has compiled, later runs load."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import filelock


def keep() -> None:
    """Has JAX, which is not imported yet, keep compiled programs, unless the environment says how already."""
    chosen = settings(os.environ)
    folder = Path(chosen["JAX_COMPILATION_CACHE_DIR"])
    with contextlib.suppress(OSError):  # no home, or a full one: then every run compiles
        folder.mkdir(parents=True, exist_ok=True)
        drop_torn(folder)
        for name, value in chosen.items():
            os.environ.setdefault(name, value)


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """JAX's settings for compiled programs that later runs load instead of compiling again.

    They lie in the user's cache folder, 2 GiB at most, apart for each kind of processor: home folders are shared by
    unlike machines, and a program for one does not run on the other. What takes 0.1 s to compile is kept, not only what takes
    a second: a run has several. What takes less is not: to keep one more of 1,000 programs takes JAX 0.05 s.

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
    """Removes what a process that was killed has left half written, which JAX itself would keep and trip over.

    JAX writes a program and then, under the same lock, when it was used last: what lacks the second is torn.
    """
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(folder / ".lockfile", timeout=1):
        for program in folder.glob("*-cache"):
            if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").exists():
                program.unlink()


def _processor() -> str:
    """What tells processors apart: their kind, and on Linux their instructions."""
    text = platform.machine() + platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = [line for line in file if line.startswith(("flags", "Features"))]
    except OSError:
        return text
    return text + "".join(flags[:1])
