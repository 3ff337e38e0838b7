"""Sources: data sets as sequences of records, one kind per file.

Each file ends with a mapping `SOURCES` from a name to a frozen dataclass of the source's options, whose method
`open(split, *, root, labels)` returns the source of one split.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol

from jaxseg import registry
from jaxseg.data.label_spec import LabelOptions
from jaxseg.data.sources.skip_unreadable import SkipUnreadable
from jaxseg.errors import InputError
from jaxseg.plain_values import from_plain

__all__ = ["SourceOptions", "names", "open_source", "registered"]

_FILES = ("shapes", "camvid", "folder", "file_list", "tfds")


class SourceOptions(Protocol):
    """A frozen dataclass of options that opens a data source."""

    def open(self, split: str, *, root: str | None, labels: LabelOptions) -> Any:
        """Returns the source of a split, as `jaxseg.data` describes it."""
        ...


@functools.cache
def registered() -> dict[str, type[SourceOptions]]:
    """Returns the options of every kind of source by its name."""
    return registry.gather(__name__, _FILES, "SOURCES")


def names() -> list[str]:
    """Returns the names of the kinds of sources.

    >>> names()
    ['shapes', 'camvid', 'folder', 'file_list', 'tfds']
    """
    return list(registered())


def open_source(
    name: str,
    split: str,
    *,
    root: str | None = None,
    labels: LabelOptions | None = None,
    options: Mapping[str, Any] | None = None,
    skip_unreadable: bool = False,
) -> Any:
    """Opens one split of a data set.

    Args:
        name: One of `names()`, or `"package.module:ClassName"` for a dataclass of options of your own.
        split: The split.
        root: The data set's folder, for sources that have one.
        labels: What the labels mean, where the source does not know it.
        options: Fields of the source's dataclass of options, as plain values.
        skip_unreadable: Whether records that cannot be read are replaced, see `SkipUnreadable`.

    Returns:
        A source, as `jaxseg.data` describes it.

    Raises:
        InputError: The name, an option or the split is unknown, a value has another type, or the split is empty.

    >>> source = open_source("shapes", "val", options={"size": [32, 48], "validation_length": 5})
    >>> len(source), source[0]["image"].shape
    (5, (32, 48, 3))
    """
    kind = registry.find("data source", name, registered())
    if not _opens_sources(kind):
        raise InputError(f"{name!r} is not a dataclass with a method `open`")
    registry.check_options(f"data source {name!r}", kind, options or {})
    read_options: SourceOptions = from_plain(kind, options or {}, "data.options")
    source = read_options.open(split, root=root, labels=labels or LabelOptions())
    if not hasattr(source, "targets"):
        raise InputError(
            f"data source {name!r} gave an object of type {type(source).__name__}, which has no `targets`"
        )
    if not len(source):
        raise InputError(f"split {split!r} of {name} is empty")
    return SkipUnreadable(source) if skip_unreadable else source


def _opens_sources(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind) and hasattr(kind, "open")
