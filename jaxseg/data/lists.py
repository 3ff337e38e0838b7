"""A data set given by a text file: an image and its mask on each line, none of them outside of the data set's folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxseg.data.decode import decode_image, decode_mask
from jaxseg.data.labels import LabelMap
from jaxseg.data.spec import LabelSpec
from jaxseg.errors import InputError

_LARGEST = 2**30  # bytes


def read_list(root: str | Path, file: str | Path) -> tuple[tuple[str, str, str], ...]:
    """Reads a list of images and masks.

    Args:
        root: The folder that paths in the list are relative to, with `/` between their parts.
        file: A UTF-8 text file: image and mask on each line, a tab or spaces between them (a tab where names hold
            spaces); empty lines and those that begin with `#` are passed over.

    Returns:
        (name, image file, mask file) of each line, in its order; the name is the image's path without its suffix.

    Raises:
        InputError: A line of another form; a path that is absolute, climbs above the root by `..`, or leads out of it
            through a link; a file that is missing or listed twice; a list that is empty or cannot be read.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("a.jpg", "a.png"):
    ...     (root / name).touch()
    >>> _ = (root / "train.txt").write_text("a.jpg a.png")
    >>> [name for name, _, _ in read_list(root, root / "train.txt")]
    ['a']
    """
    try:
        if os.path.getsize(file) > _LARGEST:
            raise InputError(f"{file} is no list: it is larger than {_LARGEST >> 20} MiB")
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"the list {file} cannot be read: {error}") from error
    top = os.path.realpath(root)
    found: dict[str, tuple[str, str, str]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        place = f"line {number} of {file}"
        paths = [path.strip(" ") for path in line.split("\t")] if "\t" in line else line.split()
        if len(paths) != 2:
            raise InputError(f"{place} holds {len(paths)} paths, not an image and a mask: {line!r}")
        image, mask = (_inside(top, path, place) for path in paths)
        name = str(PurePosixPath(paths[0]).with_suffix(""))
        if paths[0] in found:
            raise InputError(f"{place}: {paths[0]!r} is listed twice")
        found[paths[0]] = (name, image, mask)
    if not found:
        raise InputError(f"the list {file} is empty")
    return tuple(found.values())


class Listed:
    """The images and masks that a list names.

    Args:
        root: As of `read_list`.
        file: The list.
        num_classes: K; 1 stands for one sigmoid with the labels 0 and 1.
        classes: Names of the classes.
        palette: uint8 `[max(K, 2), 3]`.
        ignore_index: The label that is counted nowhere.
        label_map: A `LabelMap`, or a mapping from stored to trained ids.

    Raises:
        InputError: As `read_list` does; reading a record raises it as that of a `Folder` does.
    """

    def __init__(
        self,
        root: str | Path,
        file: str | Path,
        *,
        num_classes: int,
        classes: Sequence[str] = (),
        palette: np.ndarray | None = None,
        ignore_index: int = 255,
        label_map: LabelMap | Mapping[Any, Any] | None = None,
    ):
        self.spec = LabelSpec(num_classes, tuple(classes), palette, ignore_index, label_map)
        self.num_classes, self.classes = num_classes, self.spec.classes
        self.palette, self.ignore_index = self.spec.palette, ignore_index
        self.files = read_list(root, file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, image_file, mask_file = self.files[index]
        image, mask = decode_image(image_file), decode_mask(mask_file)
        return self.spec.record(image, mask, name, image_file, mask_file)


def _inside(top: str, path: str, place: str) -> str:
    """The file that a path stands for, which must lie below `top` with all links followed."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise InputError(f"{place}: {path!r} must be relative to the data set's folder, without ..")
    file = os.path.join(top, path)
    if os.path.commonpath([top, os.path.realpath(file)]) != top:
        raise InputError(f"{place}: {path!r} leads out of {top} through a link")
    if not os.path.isfile(file):
        raise InputError(f"{place}: there is no file {file}")
    return file
