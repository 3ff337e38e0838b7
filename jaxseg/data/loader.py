"""Batches from a source, by Grain: shuffled and augmented for training, exact for evaluation."""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from jaxseg.data.labels import fit
from jaxseg.data.sampling import Drawn
from jaxseg.data.workers import Batches, iterate
from jaxseg.errors import InputError
from jaxseg.typing import Size

EXACT_SIZES = 8
"""How many distinct image sizes evaluation keeps as they are; each is one compilation."""
MULTIPLE = 64
"""Any further size is padded up to multiples of so many pixels."""

_log = logging.getLogger(__name__)
Augment = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]
Record = dict[str, Any]


def train_batches(
    source: Any,
    augment: Augment | None,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
    weights: Sequence[float] | np.ndarray | None = None,
) -> Batches:
    """Endless training batches, shuffled anew each epoch.

    The order and every augmentation depend on (seed, epoch, index) alone: they are the same for any
    number of workers, and step `k` is the same whether the iterator started at 0 or at `k`. Epochs
    follow each other without a gap, so a batch may hold the end of one and the beginning of the
    next, nothing is dropped, and a source may be smaller than a batch.

    Args:
        source: The records.
        augment: `(record, generator) -> record` with images of one size, such as `TrainAugment`;
            None where all images have one size already.
        batch_size: Of the global batch, over all processes.
        seed: Of order and augmentation.
        start_step: How many batches to pass over, when training goes on.
        num_workers: Processes that read and augment; 0 does so in threads of this one. They take
            seconds to start. A script that asks for some guards its entry by
            `if __name__ == "__main__":`, for they import it.
        shard: (index, number) of processes; each gets rows of its own of every global batch, whose
            records and their order are the same for any number.
        weights: How often each image is drawn, such as `rare_class_weights(...)`, with repetition,
            instead of each once an epoch.

    Returns:
        An iterator of `{"image": uint8 [n, H, W, C], "label": [n, H, W], "names": list}`, `n =
        batch_size / processes`; and `"unreadable"`, a list of messages, where `SkipUnreadable` had
        to pass over records.

    Raises:
        InputError: For an empty source or numbers that do not fit; the iterator raises the
            source's own.

    >>> from jaxseg.data.shapes import Shapes
    >>> with train_batches(Shapes(6, (32, 32), seed=0), None, batch_size=4, seed=0) as batches:
    ...     batch = next(batches)
    >>> batch["image"].shape, batch["label"].shape
    ((4, 32, 32, 3), (4, 32, 32))
    """
    index, count = _check(source, batch_size, num_workers, shard)
    if start_step < 0 or seed < 0:
        raise InputError(f"start_step={start_step} and seed={seed} must not be negative")
    # Grain adds the epoch to the seed: seeds 0 and 1 would share all orders but one.
    order_seed, augment_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    if weights is None:
        records = grain.MapDataset.source(source).shuffle(seed=order_seed).repeat()
    else:
        records = grain.MapDataset.source(Drawn(source, weights, seed=order_seed))
    if augment is not None:
        # Before the rows: a record's generator is seeded by its place in the global order.
        records = records.random_map(functools.partial(_augmented, augment), seed=augment_seed)
    part = batch_size // count
    records = _Rows(records[start_step * batch_size + index * part :], part, batch_size)
    return iterate(records.batch(part, batch_fn=_stack), num_workers, ahead=2)


class _Rows(grain.MapDataset):
    """The first `part` of every `batch_size` records."""

    def __init__(self, records: grain.MapDataset, part: int, batch_size: int):
        super().__init__(records)
        self._records, self._part, self._batch_size = records, part, batch_size

    def __len__(self) -> int:
        # Grain divides as floats do: ceil((2**63 - 1) / 1) would be more than a length may be.
        return min(len(self._records), 2**53) // self._batch_size * self._part

    def __getitem__(self, index: Any) -> Any:
        batch, row = divmod(index, self._part)
        return self._records[batch * self._batch_size + row]


def eval_batches(
    source: Any,
    *,
    batch_size: int,
    ignore_index: int = 255,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """Every image of a source once, unaugmented, in full batches of images of one shape.

    Images are grouped by size. The first eight sizes stay exact; an image of any further size is
    padded at the bottom and on the right, itself with 0 and its label with `ignore_index`, up to
    multiples of 64 pixels. The last batch of each shape is filled up with ignored images.

    Args:
        source: The records.
        batch_size: Of the global batch, over all processes.
        ignore_index: The label of padding.
        num_workers: Processes that read; 0 does so in threads of this one. They take seconds to
            start, each time.
        shard: (index, number) of processes. Every process reads all images and yields its own rows
            of every global batch, so that all go through the same shapes in the same order.

    Returns:
        An iterator of `{"image": uint8 [n, H, W, C], "label": [n, H, W], "names": list, "sizes":
        list of (h, w), "global_names": list}`, `n = batch_size / processes`; names and sizes are
        those of the real images, which come first, and the last those of the whole global batch.

    Raises:
        InputError: As `train_batches` does.

    >>> from jaxseg.data.shapes import Shapes
    >>> for batch in eval_batches(Shapes(5, (32, 48), seed=0), batch_size=4):
    ...     print(batch["image"].shape, len(batch["names"]), batch["sizes"][0])
    (4, 32, 48, 3) 4 (32, 48)
    (4, 32, 48, 3) 1 (32, 48)
    """
    index, count = _check(source, batch_size, num_workers, shard)
    records = iterate(grain.MapDataset.source(source).map(_plain), num_workers, ahead=8)
    part = batch_size // count
    rows = slice(index * part, (index + 1) * part)
    return Batches(_group(records, batch_size, ignore_index, rows), records.close)


def _check(
    source: Any, batch_size: int, num_workers: int, shard: tuple[int, int]
) -> tuple[int, int]:
    index, count = shard
    if len(source) == 0:
        raise InputError("the data set is empty")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if num_workers < 0:
        raise InputError(f"num_workers must not be negative, got {num_workers}")
    if not 0 <= index < count:
        raise InputError(f"shard is (index, number) of processes, got {shard}")
    if batch_size % count:
        raise InputError(f"batch_size={batch_size} cannot be divided by {count} processes")
    return index, count


def _plain(record: Record) -> Record:
    kept = ("image", "label", "name", "unreadable")
    return {key: record[key] for key in kept if key in record}


def _augmented(augment: Augment, record: Record, generator: np.random.Generator) -> Record:
    """The augmented record, which an augmentation may build anew, with what was passed over."""
    new = augment(record, generator)
    return {**new, "unreadable": record["unreadable"]} if "unreadable" in record else new


def _stack(records: Sequence[Record]) -> Record:
    """Records of one shape as a batch."""
    first = records[0]
    for record in records:
        if record["image"].shape != first["image"].shape:
            raise InputError(
                f"images of one batch must have one shape, but {first['name']} is"
                f" {first['image'].shape} and {record['name']} is {record['image'].shape}:"
                " give an augmentation with a crop size, and images of as many channels"
            )
    batch: Record = {key: np.stack([r[key] for r in records]) for key in ("image", "label")}
    batch["names"] = [record.get("name", "") for record in records]
    problems = [problem for record in records for problem in record.get("unreadable", ())]
    return {**batch, "unreadable": problems} if problems else batch


def _group(
    records: Iterator[Record], batch_size: int, ignore_index: int, rows: slice
) -> Iterator[Record]:
    """Sorts records into batches of one shape; full ones go out at once, the others at the end."""
    exact: set[Size] = set()
    groups: dict[tuple[int, int, int], list[Record]] = {}
    for record in records:
        if "unreadable" in record:
            _log.warning("evaluated without: %s", record["unreadable"][0])
            continue
        height, width, channels = record["image"].shape
        if (height, width) not in exact and len(exact) < EXACT_SIZES:
            exact.add((height, width))
        if (height, width) not in exact:
            height, width = (math.ceil(side / MULTIPLE) * MULTIPLE for side in (height, width))
        shape = (height, width, channels)
        groups.setdefault(shape, []).append(record)
        if len(groups[shape]) == batch_size:
            yield _padded(groups.pop(shape), shape, ignore_index, rows)
    for shape, group in groups.items():
        yield _padded(group, shape, ignore_index, rows)


def _padded(
    group: list[Record], shape: tuple[int, int, int], ignore_index: int, rows: slice
) -> Record:
    """These rows of a batch of one shape, filled up with ignored images."""
    mine = group[rows]
    count = rows.stop - rows.start
    image = np.zeros((count, *shape), group[0]["image"].dtype)
    dtype = fit(group[0]["label"], ignore_index).dtype
    label = np.full((count, *shape[:2]), ignore_index, dtype)
    for i, record in enumerate(mine):
        h, w = record["label"].shape
        image[i, :h, :w], label[i, :h, :w] = record["image"], record["label"]
    return {
        "image": image,
        "label": label,
        "names": [record["name"] for record in mine],
        "sizes": [record["label"].shape for record in mine],
        "global_names": [record["name"] for record in group],
    }
