"""Folders that are complete or absent: written under another name, sealed with checksums, then renamed.

A kill, a full disk or a power failure at any moment leaves either no folder of the final name, or one whose files agree with
the checksums in it. Folders that are being written or removed have a suffix.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

_CHECKSUMS = "checksums.json"
_SUFFIXES = (".unfinished", ".removed")


def unfinished(path: Path) -> Path:
    """Returns the path under which the folder `path` is written before it is published.

    >>> unfinished(Path("best/12")).name
    '12.unfinished'
    """
    return path.with_name(path.name + _SUFFIXES[0])


def seal(folder: Path) -> None:
    """Flushes every file of a folder to the disk and writes their checksums into it.

    Raises:
        OSError: A file cannot be read or written.
    """
    checksums = {}
    for file in _files(folder):
        checksums[file.relative_to(folder).as_posix()] = _checksum(file)
        _sync(file)
    (folder / _CHECKSUMS).write_text(json.dumps(checksums, indent=1))
    for path in (folder / _CHECKSUMS, *(p for p in folder.rglob("*") if p.is_dir()), folder):
        _sync(path)


def publish(path: Path) -> None:
    """Renames the sealed folder `unfinished(path)` to `path`, and removes a folder that was there before."""
    if path.exists():
        _set_aside(path)
    unfinished(path).rename(path)
    _sync(path.parent)
    remove_leftovers(path.parent)


def find_damage(folder: Path) -> str | None:
    """Returns how a sealed folder differs from what was written; None where it is intact.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "numbers").write_bytes(b"1234")
    >>> find_damage(folder)
    'checksums.json cannot be read'
    >>> seal(folder)
    >>> find_damage(folder)
    >>> _ = (folder / "numbers").write_bytes(b"1235")
    >>> find_damage(folder)
    'numbers is not what was written'
    """
    try:
        checksums = dict(json.loads((folder / _CHECKSUMS).read_text()))
    except (OSError, ValueError, TypeError):
        return f"{_CHECKSUMS} cannot be read"
    for name, checksum in checksums.items():
        try:
            if _checksum(folder / name) != checksum:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def remove(folder: Path) -> None:
    """Removes a folder: first its name, by one rename, then its files."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Removes folders in `parent` that were being written or removed when a process ended."""
    for path in parent.iterdir():
        if path.suffix in _SUFFIXES:
            shutil.rmtree(path, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    removed = folder.with_name(folder.name + _SUFFIXES[1])
    shutil.rmtree(removed, ignore_errors=True)
    return folder.rename(removed)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _CHECKSUMS)


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
