"""Batches of a source by Grain: shuffled and augmented for training, each image once for evaluation."""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from jaxseg.data.host.prefetch import Batches, iterate
from jaxseg.data.host.sampling import WeightedSamples
from jaxseg.data.targets import Targets, select
from jaxseg.errors import InputError
from jaxseg.typing import Size

EXACT_SIZES = 8
"""The number of distinct image sizes that evaluation does not pad; each is one compilation."""
MULTIPLE = 64
"""Images of further sizes are padded to multiples of this number of pixels."""

_log = logging.getLogger(__name__)
Record = dict[str, Any]
Augment = Callable[[Record, np.random.Generator], Record]
"""`augment(record, generator) -> record`."""


def train_batches(
    source: Any,
    augment: Augment | None,
    *,
    batch_size: int,
    seed: int,
    targets: Targets | None = None,
    start_step: int = 0,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
    weights: Sequence[float] | np.ndarray | None = None,
) -> Batches:
    """Returns endless training batches, shuffled in each epoch.

    The order and every augmentation depend only on (seed, epoch, index): they are the same for any number of workers, and
    step `k` is the same whether the iterator started at 0 or at `k`. Epochs follow each other without a gap, so a batch may
    hold the end of one and the beginning of the next, nothing is dropped, and a source may be smaller than a batch.

    Args:
        source: The records.
        augment: `augment(record, generator) -> record` with images of one size, such as `TrainAugment`; None if all images
            have one size.
        batch_size: The size of the global batch, over all processes.
        seed: Seeds the order and the augmentation.
        targets: The targets of a batch; all of the source's by default.
        start_step: The number of batches to skip, to resume training.
        num_workers: Processes that read and augment; 0 uses threads of this process. Workers take seconds to start, and a
            script that uses them must guard its entry by `if __name__ == "__main__":`, since they import it.
        shard: (index, count) of processes; each gets its rows of every global batch, whose records and order are the same for
            any count.
        weights: Relative frequencies of the images, such as `rare_class_weights(...)`, for sampling with replacement; by
            default each image is seen once in an epoch.

    Returns:
        An iterator of `{"image": uint8 [n, H, W, C], **targets, "names": list}`, `n = batch_size / processes`, with the
        targets `[n, H, W]` or `[n, H, W, D]`; and `"unreadable"`, a list of messages, where `SkipUnreadable` replaced
        records.

    Raises:
        InputError: The source is empty or a number is out of range; the iterator raises the errors of the source.

    >>> from jaxseg.data.sources.shapes import Shapes
    >>> source = Shapes(6, (32, 32), seed=0)
    >>> with train_batches(source, None, batch_size=4, seed=0) as batches:
    ...     batch = next(batches)
    >>> {name: batch[name].shape for name in ("image", *source.targets)}
    {'image': (4, 32, 32, 3), 'label': (4, 32, 32)}
    """
    index, count = _check(source, batch_size, num_workers, shard)
    if start_step < 0 or seed < 0:
        raise InputError(f"start_step={start_step} and seed={seed} must not be negative")
    # Grain adds the epoch to the seed: seeds 0 and 1 would share all orders but one.
    order_seed, augment_seed = (int(s) for s in np.random.SeedSequence(seed).generate_state(2))
    if weights is None:
        records = grain.MapDataset.source(source).shuffle(seed=order_seed).repeat()
    else:
        records = grain.MapDataset.source(WeightedSamples(source, weights, seed=order_seed))
    if augment is not None:
        # Before the rows are selected: a record's generator is seeded by its position in the global order.
        records = records.random_map(functools.partial(_augment, augment), seed=augment_seed)
    rows = batch_size // count
    records = _Rows(records[start_step * batch_size + index * rows :], rows, batch_size)
    stack = functools.partial(_stack, source.targets if targets is None else targets)
    return iterate(records.batch(rows, batch_fn=stack), num_workers, ahead=2)


class _Rows(grain.MapDataset):
    """The first `rows` of every `batch_size` records."""

    def __init__(self, records: grain.MapDataset, rows: int, batch_size: int):
        super().__init__(records)
        self._records, self._rows, self._batch_size = records, rows, batch_size

    def __len__(self) -> int:
        # Grain divides as floats do: ceil((2**63 - 1) / 1) would exceed the largest length.
        return min(len(self._records), 2**53) // self._batch_size * self._rows

    def __getitem__(self, index: Any) -> Any:
        batch, row = divmod(index, self._rows)
        return self._records[batch * self._batch_size + row]


def eval_batches(
    source: Any,
    *,
    batch_size: int,
    targets: Targets | None = None,
    num_workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """Returns every image of a source once, without augmentation, in full batches of images of one shape.

    Images are grouped by size. The first eight sizes are not padded; an image of any further size is padded at the bottom and
    on the right, the image with 0 and each target with its fill value, to multiples of 64 pixels. The last batch of each shape
    is filled up with padding.

    Args:
        source: The records.
        batch_size: The size of the global batch, over all processes.
        targets: The targets of a batch; all of the source's by default.
        num_workers: Processes that read; 0 uses threads of this process. Workers take seconds to start, each time.
        shard: (index, count) of processes. Every process reads all images and yields its rows of every global batch, so that
            all processes see the same shapes in the same order.

    Returns:
        An iterator of `{"image": uint8 [n, H, W, C], **targets, "names": list, "sizes": list of (h, w), "global_names":
        list}`, `n = batch_size / processes`; names and sizes are those of the real images, which come first, and
        `"global_names"` those of the whole global batch.

    Raises:
        InputError: As for `train_batches`.

    >>> from jaxseg.data.sources.shapes import Shapes
    >>> for batch in eval_batches(Shapes(5, (32, 48), seed=0), batch_size=4):
    ...     print(batch["image"].shape, len(batch["names"]), batch["sizes"][0])
    (4, 32, 48, 3) 4 (32, 48)
    (4, 32, 48, 3) 1 (32, 48)
    """
    index, count = _check(source, batch_size, num_workers, shard)
    selected: Targets = source.targets if targets is None else targets
    records = grain.MapDataset.source(source).map(functools.partial(_select, selected))
    records = iterate(records, num_workers, ahead=8)
    size = batch_size // count
    rows = slice(index * size, (index + 1) * size)
    return Batches(_group(records, batch_size, selected, rows), records.close)


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
        raise InputError(f"shard is (index, count) of processes, got {shard}")
    if batch_size % count:
        raise InputError(f"batch_size={batch_size} cannot be divided by {count} processes")
    return index, count


def _select(targets: Targets, record: Record) -> Record:
    """Returns the entries of a record that a batch is made of."""
    rest = {key: record[key] for key in ("name", "unreadable") if key in record}
    return select(record, targets) | rest


def _augment(augment: Augment, record: Record, generator: np.random.Generator) -> Record:
    """Returns the augmented record, with the messages of replaced records, which an augmentation may drop."""
    augmented = augment(record, generator)
    if "unreadable" not in record:
        return augmented
    return {**augmented, "unreadable": record["unreadable"]}


def _stack(targets: Targets, records: Sequence[Record]) -> Record:
    """Stacks records of one shape to a batch."""
    first = records[0]
    for record in records:
        if record["image"].shape != first["image"].shape:
            raise InputError(
                f"images of one batch must have one shape, but {first['name']} is"
                f" {first['image'].shape} and {record['name']} is {record['image'].shape}:"
                " give an augmentation with a crop size, and images with the same number of channels"
            )
    arrays = [select(record, targets) for record in records]
    batch: Record = {key: np.stack([each[key] for each in arrays]) for key in arrays[0]}
    batch["names"] = [record.get("name", "") for record in records]
    problems = [problem for record in records for problem in record.get("unreadable", ())]
    return {**batch, "unreadable": problems} if problems else batch


def _group(
    records: Iterator[Record], batch_size: int, targets: Targets, rows: slice
) -> Iterator[Record]:
    """Yields batches of one shape, full ones as soon as possible and the others at the end."""
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
            yield _pad_batch(groups.pop(shape), shape, targets, rows)
    for shape, group in groups.items():
        yield _pad_batch(group, shape, targets, rows)


def _pad_batch(
    group: list[Record], shape: tuple[int, int, int], targets: Targets, rows: slice
) -> Record:
    """Returns these rows of a group as a batch, padded to a shape and filled up with padding."""
    mine = group[rows]
    batch: Record = {"image": _pad([record["image"] for record in group], shape, 0, rows)}
    for name, target in targets.items():
        values = [target.cast(record[name]) for record in group]
        size = (*shape[:2], *values[0].shape[2:])
        batch[name] = _pad(values, size, target.fill, rows)
    batch["names"] = [record["name"] for record in mine]
    batch["sizes"] = [record["image"].shape[:2] for record in mine]
    batch["global_names"] = [record["name"] for record in group]
    return batch


def _pad(
    group: Sequence[np.ndarray], shape: tuple[int, ...], fill: float, rows: slice
) -> np.ndarray:
    """Stacks these rows of a group of arrays, padded to a shape and up to the number of rows."""
    padded = np.full((rows.stop - rows.start, *shape), fill, group[0].dtype)
    for row, values in zip(padded, group[rows], strict=False):
        row[: values.shape[0], : values.shape[1]] = values
    return padded
