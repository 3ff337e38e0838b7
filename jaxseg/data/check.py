"""Checks of a data set of semantic segmentation before training: its labels, and everything that is wrong with it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxseg.data import labels as lib
from jaxseg.data.targets import only_mask
from jaxseg.errors import InputError
from jaxseg.typing import Size


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        count: The number of records that were read.
        classes: Names of the labels.
        pixels: Pixels of each label.
        images: Images that hold each label.
        ignored: Pixels that are ignored.
        sizes: The number of images of each (height, width).
        problems: Messages about faults that must be corrected before training, with the names of files.
        notes: Messages about what may be intended.
    """

    count: int
    classes: tuple[str, ...]
    pixels: tuple[int, ...]
    images: tuple[int, ...]
    ignored: int
    sizes: dict[Size, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


def check(source: Any, *, on_image: Callable[[int], None] | None = None) -> Report:
    """Reads every record and collects all problems instead of stopping at the first.

    Args:
        source: The records, with exactly one mask among the targets.
        on_image: Called after each record with the number of records read.

    Returns:
        The report.

    Raises:
        InputError: The source has no mask, or more than one.

    >>> from jaxseg.data.sources.shapes import Shapes
    >>> report = check(Shapes(4, size=(32, 32), seed=0))
    >>> report.count, report.sizes, report.ok
    (4, {(32, 32): 4}, True)
    """
    return _scan(source, range(len(source)), on_image)


def check_sample(source: Any, count: int = 16) -> Report:
    """Reads a few records, spread evenly over the data set, and raises at a problem.

    A wrong folder or label map shows in most records; `check` reads all of them.

    Args:
        source: The records, with exactly one mask among the targets.
        count: The largest number of records to read.

    Returns:
        The report of these records.

    Raises:
        InputError: The first problem, or the source is empty or has not exactly one mask.
    """
    if len(source) == 0:
        raise InputError("the data set is empty")
    indices = np.unique(
        np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    )
    report = _scan(source, indices.tolist(), None)
    if report.problems:
        raise InputError(report.problems[0])
    return report


@dataclasses.dataclass(frozen=True)
class _Summary:
    size: Size
    channels: int
    counts: dict[int, int]


def _read(source: Any, index: int, mask: str) -> _Summary | str:
    """Returns the summary of a record, or the message of its error."""
    try:
        record = source[index]
    except InputError as error:
        return str(error)
    image, labels = record["image"], record[mask]
    return _Summary(labels.shape, image.shape[-1], lib.counts(labels))


def _scan(source: Any, indices: Iterable[int], on_image: Callable[[int], None] | None) -> Report:
    mask = only_mask(source.targets, "the check of a data set")
    problems: list[str] = []
    pixels, images, sizes, channels = Counter(), Counter(), Counter(), Counter()
    done = 0
    with ThreadPoolExecutor(4) as pool:  # decoding releases Python's lock
        for summary in pool.map(lambda index: _read(source, index, mask), indices):
            done += 1
            if isinstance(summary, str):
                problems.append(summary)
            else:
                pixels.update(summary.counts)
                images.update(summary.counts.keys())
                sizes[summary.size] += 1
                channels[summary.channels] += 1
            if on_image:
                on_image(done)
    if len(channels) > 1:
        counts = ", ".join(f"{images} have {number}" for number, images in channels.items())
        problems.append(f"images differ in their number of channels: {counts}")
    ignore_index = int(source.targets[mask].fill)
    ignored = pixels.pop(ignore_index, 0)
    found = sorted(pixels)
    if sizes:
        problems += _label_problems(found, ignored, sum(sizes.values()), ignore_index)
    num_labels = max(source.num_classes, 2)
    never = [source.classes[i] for i in range(num_labels) if i not in pixels]
    notes = []
    if never and found:
        notes.append(f"absent from the labels of {sum(sizes.values())} images: {', '.join(never)}")
    return Report(
        count=done,
        classes=tuple(source.classes),
        pixels=tuple(pixels[i] for i in range(num_labels)),
        images=tuple(images[i] for i in range(num_labels)),
        ignored=ignored,
        sizes=dict(sorted(sizes.items())),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _label_problems(found: list[int], ignored: int, images: int, ignore_index: int) -> list[str]:
    """Returns the problems of the labels of all images together."""
    if not found:
        return [
            f"every pixel of all {images} images that were read is ignored"
            f" (ignore_index={ignore_index}): training would learn nothing; check"
            " ignore_index and the label map"
        ]
    if found == [0] and ignored and ignore_index == 255:
        return [
            f"the masks of all {images} images that were read hold only 0 and 255, and 255 is"
            " ignored: the network would see class 0 only and train on nothing. If 255 is the"
            f" foreground, give the label map {{0: 0, 255: 1}} ({ignored} pixels are 255)"
        ]
    return []
