"""Data sets in device memory, from which batches are gathered and augmented inside the compiled step."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.data.device.augment import Mix, Sample, Transform
from jaxseg.data.targets import Targets, select
from jaxseg.errors import InputError
from jaxseg.typing import Array, Batch, Feed, Key

_STREAM = 2**32 - 1  # no step has this number: the step folds its own into the same key


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceDataset:
    """All images of a data set and their targets, a pytree that compiled functions take as an argument.

    Attributes:
        arrays: `{"image": [L, H, W, C], **targets}`; images are usually uint8.
        length: The number of images, if rows were added so that the devices divide them.
        is_sharded: Whether `Parallel.put` shards the arrays over the devices instead of replicating them.
    """

    arrays: Mapping[str, Array]
    length: int | None = field(default=None, metadata={"static": True})
    is_sharded: bool = field(default=False, metadata={"static": True})

    def __len__(self) -> int:
        return len(self.arrays["image"]) if self.length is None else self.length

    def gather(self, index: Array) -> Sample:
        """Returns the samples `{"image": [..., H, W, C], **targets}` of indices `[...]`, which must lie within the set."""
        arrays = {name: jnp.asarray(array) for name, array in self.arrays.items()}
        if self.is_sharded:
            return {name: collective.gather_rows(array, index) for name, array in arrays.items()}
        within = "promise_in_bounds"
        return {name: array.at[index].get(mode=within) for name, array in arrays.items()}


class Loaded(NamedTuple):
    """A data set in the host's memory.

    Attributes:
        dataset: Its arrays, for `Parallel.put`.
        names: The name of each image.
        unreadable: A message for each record that `SkipUnreadable` replaced.
    """

    dataset: DeviceDataset
    names: tuple[str, ...]
    unreadable: tuple[str, ...]


def load(
    source: Any,
    *,
    targets: Targets | None = None,
    devices: Sequence[Any] = (),
    agree: Callable[[bool], bool] = bool,
) -> Loaded:
    """Reads all records of a source, whose images must have one size.

    Args:
        source: The records.
        targets: The targets to load; all of the source's by default.
        devices: The devices that will hold the set, whose memory is checked before reading: it is replicated where it fits
            on each, and sharded otherwise.
        agree: Maps whether it fits on this process's devices to whether it fits on those of all processes.

    Raises:
        InputError: The source is empty, an array differs in shape or dtype from that of the first record, or the set does
            not fit.

    >>> from jaxseg.data.sources.shapes import Shapes
    >>> dataset = load(Shapes(6, (32, 48))).dataset
    >>> {name: array.shape for name, array in dataset.arrays.items()}
    {'image': (6, 32, 48, 3), 'label': (6, 32, 48)}
    """
    if not len(source):
        raise InputError("the data set is empty")
    selected: Targets = source.targets if targets is None else targets
    record = source[0]
    first, first_name = _arrays(record, selected), record.get("name", 0)
    sample_bytes, rows = sum(array.nbytes for array in first.values()), len(source)
    is_sharded = not agree(fits(rows * sample_bytes, devices))
    if is_sharded:
        rows = -(-rows // len(devices)) * len(devices)
        check_memory(rows * sample_bytes // len(devices), devices)
    arrays = {name: np.zeros((rows, *array.shape), array.dtype) for name, array in first.items()}

    def read(index: int) -> tuple[str, Sequence[str]]:
        record = source[index]
        for name, values in _arrays(record, selected).items():
            if (values.shape, values.dtype) != (first[name].shape, first[name].dtype):
                raise InputError(
                    f"a data set on the device needs images of one size, but the {name} of {first_name} is"
                    f" {_size(first[name])} and that of {record.get('name', index)} is {_size(values)}: resize the files,"
                    " or let the host load them"
                )
            arrays[name][index] = values
        return str(record.get("name", index)), record.get("unreadable", ())

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read_all = list(pool.map(read, range(len(source))))
    problems = dict.fromkeys(problem for _, problems in read_all for problem in problems)
    on_host: Any = arrays  # NumPy's, until they are put on devices
    dataset = DeviceDataset(on_host, length=len(source), is_sharded=is_sharded)
    return Loaded(dataset, tuple(name for name, _ in read_all), tuple(problems))


def _arrays(record: Mapping[str, Any], targets: Targets) -> dict[str, np.ndarray]:
    arrays = select(record, targets)
    return arrays | {name: target.cast(arrays[name]) for name, target in targets.items()}


def fits(needed: int, devices: Sequence[Any]) -> bool:
    """Returns whether each device has this many bytes available, as far as it reports; a CPU reports nothing."""
    return all((free := _free(device)) is None or needed <= free for device in devices)


def check_memory(needed: int, devices: Sequence[Any]) -> None:
    """Raises if this many bytes do not fit on each of the devices.

    Raises:
        InputError: The message holds both numbers.
    """
    for device in devices:
        if not fits(needed, [device]):
            raise InputError(
                f"sharded over {len(devices)} devices, the data set needs {needed:,} bytes on each, but {device} has "
                f"{_free(device):,} of {device.memory_stats()['bytes_limit']:,} available: let the host load it, or "
                "store smaller images"
            )


def _free(device: Any) -> int | None:
    if device.process_index != jax.process_index():
        return None  # only its own process can ask it
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else None


def make_feed(transform: Transform, mixes: Sequence[Mix] = ()) -> Feed:
    """Returns the function that makes a batch on the device: gathered, augmented, mixed.

    The augmentation of an image depends only on the key and the image's position in the order of all epochs: not on the
    batch size, the devices, or earlier steps.

    Args:
        transform: Of single samples, such as `compose(random_view(...), random_colour())`; partners are transformed too.
        mixes: Applied in order, to a sample and partners that are sampled from the whole set.

    Returns:
        A pure function `feed(dataset, schedule, key) -> {"image": [N, h, w, C], **targets}` of one step's column of the
        schedule that `make_sampler` returns, `[N]` each, and the key of the run.
    """
    num_images = max((mix.num_images for mix in mixes), default=1)

    def augment(key: Key, samples: Sample) -> Sample:
        if num_images == 1:
            return transform(key, {name: array[0] for name, array in samples.items()})
        transform_key, *mix_keys = jax.random.split(key, 1 + len(mixes))
        samples = jax.vmap(transform)(jax.random.split(transform_key, num_images), samples)
        for mix, mix_key in zip(mixes, mix_keys, strict=True):
            result = mix(mix_key, samples)
            samples = {name: array.at[0].set(result[name]) for name, array in samples.items()}
        return {name: array[0] for name, array in samples.items()}

    def feed(dataset: DeviceDataset, schedule: Mapping[str, Array], key: Key) -> Batch:
        stream = jax.random.fold_in(key, _STREAM)

        def sample_keys(epoch: Array, position: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(stream, epoch), position)
            return jax.random.split(key)

        keys = jax.vmap(sample_keys)(schedule["epoch"], schedule["position"])
        index = schedule["index"][:, None]
        if num_images > 1:
            shape, top = (num_images - 1,), len(dataset)
            sample = jax.vmap(lambda key: jax.random.randint(key, shape, 0, top, index.dtype))
            index = jnp.concatenate([index, sample(keys[:, 1])], axis=1)
        return jax.vmap(augment)(keys[:, 0], dataset.gather(index))

    return feed


def _size(array: Any) -> str:
    return " x ".join(map(str, array.shape)) + f" {array.dtype}"
