"""Folders that are whole or absent: written aside, sealed with checksums, then renamed.

A kill, a full disk or a lost power supply at any moment leaves either no folder of the final name or one whose files
all agree with the checksums inside it. What was being written or removed has a suffix and is nobody's.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

_CHECKSUMS = "checksums.json"
_SUFFIXES = (".unfinished", ".removed")


def unfinished(place: Path) -> Path:
    """Where a folder is written that will be called `place`."""
    return place.with_name(place.name + _SUFFIXES[0])


def seal(folder: Path) -> None:
    """Brings every file below a folder to the disk and writes their checksums beside them.

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


def publish(place: Path) -> None:
    """Gives the sealed folder at `unfinished(place)` its name, in place of a folder that has it already."""
    if place.exists():
        _set_aside(place)
    unfinished(place).rename(place)
    _sync(place.parent)
    clear(place.parent)


def fault(folder: Path) -> str | None:
    """What is wrong with a folder that was sealed, None where it is whole.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "numbers").write_bytes(b"1234")
    >>> fault(folder)
    'checksums.json cannot be read'
    >>> seal(folder)
    >>> fault(folder)
    >>> _ = (folder / "numbers").write_bytes(b"1235")
    >>> fault(folder)
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
    """Removes a folder: at once by its name, then file by file."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def clear(parent: Path) -> None:
    """Removes what kills have left between the folders in `parent`."""
    for path in parent.iterdir():
        if path.suffix in _SUFFIXES:
            shutil.rmtree(path, ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    aside = folder.with_name(folder.name + _SUFFIXES[1])
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


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
