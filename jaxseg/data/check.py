"""Scans of a data set before any training: what its labels are, and everything that is wrong with
it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxseg.data import labels as lib
from jaxseg.errors import InputError
from jaxseg.typing import Size


@dataclasses.dataclass(frozen=True)
class Report:
    """What a scan found.

    Attributes:
        count: How many records were looked at.
        classes: Names of the labels.
        pixels: Pixels of each label.
        images: Images that hold each label.
        ignored: Pixels that are ignored.
        sizes: How many images have each (height, width).
        problems: What must be mended before training, one message each, naming the file.
        notes: What may be intended.
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
        """Whether there is nothing to mend."""
        return not self.problems


def check(source: Any, *, on_image: Callable[[int], None] | None = None) -> Report:
    """Reads every record and collects all problems instead of stopping at the first.

    Args:
        source: The records.
        on_image: Called after each record with how many are done.

    Returns:
        The report.

    >>> from jaxseg.data.shapes import Shapes
    >>> report = check(Shapes(4, size=(32, 32), seed=0))
    >>> report.count, report.sizes, report.ok
    (4, {(32, 32): 4}, True)
    """
    return _scan(source, range(len(source)), on_image)


def check_sample(source: Any, count: int = 16) -> Report:
    """Reads a few records, spread over the data set, and raises where training on them would be in
    vain.

    A folder or a label map that was mistaken for another shows in most records; `check` reads all.

    Args:
        source: The records.
        count: How many to read at most.

    Returns:
        The report of what was read.

    Raises:
        InputError: For the first problem.
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
class _Seen:
    size: Size
    depth: int
    found: dict[int, int]


def _look(source: Any, index: int) -> _Seen | str:
    try:
        record = source[index]
    except InputError as error:
        return str(error)
    image, label = record["image"], record["label"]
    return _Seen(label.shape, image.shape[-1], lib.counts(label))


def _scan(source: Any, indices: Iterable[int], on_image: Callable[[int], None] | None) -> Report:
    problems: list[str] = []
    pixels, images, sizes, depths = Counter(), Counter(), Counter(), Counter()
    done = 0
    with ThreadPoolExecutor(4) as pool:  # decoding leaves Python's lock to the others
        for seen in pool.map(lambda index: _look(source, index), indices):
            done += 1
            if isinstance(seen, str):
                problems.append(seen)
            else:
                pixels.update(seen.found)
                images.update(seen.found.keys())
                sizes[seen.size] += 1
                depths[seen.depth] += 1
            if on_image:
                on_image(done)
    if len(depths) > 1:
        found_depths = ", ".join(f"{number} have {depth}" for depth, number in depths.items())
        problems.append(f"images differ in their number of channels: {found_depths}")
    ignored = pixels.pop(source.ignore_index, 0)
    found = sorted(pixels)
    if sizes:
        problems += _in_vain(found, ignored, sum(sizes.values()), source)
    num_labels = max(source.num_classes, 2)
    never = [source.classes[i] for i in range(num_labels) if i not in pixels]
    notes = []
    if never and found:
        notes.append(f"never labelled in {sum(sizes.values())} images: {', '.join(never)}")
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


def _in_vain(found: list[int], ignored: int, images: int, source: Any) -> list[str]:
    """What is wrong with the labels of the data set as a whole."""
    if not found:
        return [
            f"every pixel of all {images} images that were read is ignored"
            f" (ignore_index={source.ignore_index}): training would learn nothing; look at"
            " ignore_index and the label map"
        ]
    if found == [0] and ignored and source.ignore_index == 255:
        return [
            f"the masks of all {images} images that were read hold 0 and 255 alone, and 255 is"
            " ignored: the network would see class 0 only and train on nothing. If 255 is the"
            f" foreground, give the label map {{0: 0, 255: 1}} ({ignored} pixels are 255)"
        ]
    return []
