"""Text files that list an image and its mask on each line."""

import codecs
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxseg.data.decode import decode_image, decode_mask
from jaxseg.data.label_spec import LabelOptions, LabelSpec
from jaxseg.data.labels import LabelMap
from jaxseg.data.sources.file_pairs import require_root
from jaxseg.errors import InputError

_MAX_BYTES = 2**30


def read_list(root: str | Path, file: str | Path) -> tuple[tuple[str, str, str], ...]:
    """Reads a list of images and masks.

    Args:
        root: The folder that paths in the list are relative to, with `/` between their parts.
        file: A UTF-8 text file: image and mask on each line, separated by a tab or spaces (a tab if names hold spaces);
            empty lines and lines that begin with `#` are skipped.

    Returns:
        (name, image file, mask file) of each line, in order; the name is the image's path without its suffix.

    Raises:
        InputError: A line has another form; a path is absolute, contains `..`, or leads out of the root through a link; a
            file is missing or listed twice; the list is empty or cannot be read.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("a.jpg", "a.png"):
    ...     (root / name).touch()
    >>> _ = (root / "train.txt").write_text("a.jpg a.png")
    >>> [name for name, _, _ in read_list(root, root / "train.txt")]
    ['a']
    """
    try:
        if os.path.getsize(file) > _MAX_BYTES:
            raise InputError(f"{file} is not a list: it is larger than {_MAX_BYTES >> 20} MiB")
        content = Path(file).read_bytes()
        is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"the list {file} cannot be read: {error}") from error
    top = os.path.realpath(root)
    found: dict[str, tuple[str, str, str]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        where = f"line {number} of {file}"
        paths = [path.strip(" ") for path in line.split("\t")] if "\t" in line else line.split()
        if len(paths) != 2:
            raise InputError(f"{where} holds {len(paths)} paths, not an image and a mask: {line!r}")
        image, mask = (_inside(top, path, where) for path in paths)
        path = PurePosixPath(paths[0])  # without "./"
        if str(path) in found:
            raise InputError(f"{where}: {paths[0]!r} is listed twice")
        found[str(path)] = (str(path.with_suffix("")), image, mask)
    if not found:
        raise InputError(f"the list {file} is empty")
    return tuple(found.values())


class FileList:
    """The images and masks that a text file lists.

    Args:
        root: The folder that the list's paths are relative to.
        file: The list, as for `read_list`.
        num_classes: K; 1 stands for one sigmoid with the labels 0 and 1.
        classes: Names of the classes.
        palette: uint8 `[max(K, 2), 3]`.
        ignore_index: The label of pixels that losses and metrics ignore.
        label_map: A `LabelMap`, or a mapping from stored to trained ids.

    Raises:
        InputError: As for `read_list`; reading a record raises it as for `Folder`.
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
        self.targets = self.spec.targets
        self.files = read_list(root, file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, image_file, mask_file = self.files[index]
        image, mask = decode_image(image_file), decode_mask(mask_file)
        return self.spec.record(image, mask, name, image_file, mask_file)


@dataclass(frozen=True)
class FileListOptions:
    """Images and masks that a text file below the root lists."""

    list: str
    """The text file, with an image and a mask on each line, relative to the root; {split} is replaced by the split."""

    def open(self, split: str, *, root: str | None, labels: LabelOptions) -> FileList:
        """Opens a split.

        Raises:
            InputError: There is no root or number of classes.
        """
        path = require_root("file_list", root)
        options = labels.arguments(require="file_list")
        return FileList(path, path / self.list.replace("{split}", split), **options)


def _inside(top: str, path: str, where: str) -> str:
    """Returns the file of a path, which must lie below `top` with all links followed."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        raise InputError(f"{where}: {path!r} must be relative to the data set's folder, without ..")
    file = os.path.join(top, path)
    if os.path.commonpath([top, os.path.realpath(file)]) != top:
        raise InputError(f"{where}: {path!r} leads out of {top} through a link")
    if not os.path.isfile(file):
        raise InputError(f"{where}: there is no file {file}")
    return file


SOURCES = {"file_list": FileListOptions}
