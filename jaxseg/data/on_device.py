"""A data set that lives on the devices, from which batches are gathered and augmented inside of the compiled step."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.data.device_augment import Mix, Transform
from jaxseg.data.labels import fit
from jaxseg.errors import InputError
from jaxseg.typing import Array, Batch, Key

_STREAM = 2**32 - 1  # no step has this number: the step folds its own into the same key

Feed = Callable[["OnDevice", Mapping[str, Array], Key], Batch]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnDevice:
    """All images of a data set and their labels, a pytree that compiled functions take as an argument.

    Attributes:
        image: `[L, H, W, C]`, uint8 as a rule.
        label: `[L, H, W]`.
        length: How many of them there are, where rows were added for the devices to divide them.
        is_cut: Whether `Parallel.keep` cuts them over the devices instead of keeping all on each.
    """

    image: Array
    label: Array
    length: int | None = field(default=None, metadata={"static": True})
    is_cut: bool = field(default=False, metadata={"static": True})

    def __len__(self) -> int:
        return len(self.image) if self.length is None else self.length

    def take(self, index: Array) -> tuple[Array, Array]:
        """Images `[..., H, W, C]` and labels `[..., H, W]` by their index `[...]`, which must be within the set."""
        image, label = jnp.asarray(self.image), jnp.asarray(self.label)
        if self.is_cut:
            return collective.take(image, index), collective.take(label, index)
        within = "promise_in_bounds"
        return image.at[index].get(mode=within), label.at[index].get(mode=within)


class Loaded(NamedTuple):
    """A data set in the host's memory.

    Attributes:
        dataset: Its arrays, for `Parallel.keep`.
        names: The name of each image.
        unreadable: A message for each record that `SkipUnreadable` passed over.
    """

    dataset: OnDevice
    names: tuple[str, ...]
    unreadable: tuple[str, ...]


def load(
    source: Any, *, devices: Sequence[Any] = (), agree: Callable[[bool], bool] = bool
) -> Loaded:
    """Reads a whole source, whose images must have one size.

    Args:
        source: The records.
        devices: Where the set will be kept, asked beforehand whether it fits: whole on each, or else cut over them.
        agree: From whether it fits on this process's devices to whether it does on those of all processes.

    Raises:
        InputError: The source is empty, an image differs in size or type from the first, or the set does not fit.

    >>> from jaxseg.data.shapes import Shapes
    >>> dataset = load(Shapes(6, (32, 48))).dataset
    >>> dataset.image.shape, dataset.label.shape, dataset.image.dtype.name
    ((6, 32, 48, 3), (6, 32, 48), 'uint8')
    """
    if not len(source):
        raise InputError("the data set is empty")
    first = source[0]
    image, label = first["image"], fit(first["label"], source.ignore_index)
    each, rows = image.nbytes + label.nbytes, len(source)
    is_cut = not agree(fits(rows * each, devices))
    if is_cut:
        rows = -(-rows // len(devices)) * len(devices)
        check_memory(rows * each // len(devices), devices)
    images = np.zeros((rows, *image.shape), image.dtype)
    labels = np.zeros((rows, *label.shape), label.dtype)

    def read(index: int) -> tuple[str, Sequence[str]]:
        record = source[index]
        mine = fit(record["label"], source.ignore_index)
        if (record["image"].shape, record["image"].dtype) != (image.shape, image.dtype):
            raise InputError(
                f"a data set on the device needs images of one size, but {first['name']} is {_size(image)} and "
                f"{record['name']} is {_size(record['image'])}: resize the files, or let the host load them"
            )
        images[index] = record["image"]
        labels[index] = mine.astype(label.dtype)
        return str(record.get("name", index)), record.get("unreadable", ())

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read_all = list(pool.map(read, range(len(source))))
    problems = dict.fromkeys(problem for _, problems in read_all for problem in problems)
    arrays: Any = {"image": images, "label": labels}  # the host's, until they are put on devices
    dataset = OnDevice(**arrays, length=len(source), is_cut=is_cut)
    return Loaded(dataset, tuple(name for name, _ in read_all), tuple(problems))


def fits(needed: int, devices: Sequence[Any]) -> bool:
    """Whether each device has so many bytes left, as far as it tells; a CPU tells nothing."""
    return all((free := _free(device)) is None or needed <= free for device in devices)


def check_memory(needed: int, devices: Sequence[Any]) -> None:
    """Raises where so many bytes do not fit into each of the devices.

    Raises:
        InputError: The message holds both numbers.
    """
    for device in devices:
        if not fits(needed, [device]):
            raise InputError(
                f"cut over {len(devices)} devices, the data set needs {needed:,} bytes on each, but {device} has "
                f"{_free(device):,} of {device.memory_stats()['bytes_limit']:,} available: let the host load it, or "
                "store smaller images"
            )


def _free(device: Any) -> int | None:
    if device.process_index != jax.process_index():
        return None  # its own process asks it
    told = device.memory_stats() or {}
    return told["bytes_limit"] - told.get("bytes_in_use", 0) if "bytes_limit" in told else None


def make_feed(transform: Transform, mixes: Sequence[Mix] = ()) -> Feed:
    """The function that makes a batch on the device: gathered, augmented, mixed.

    What becomes of an image depends on the key and on its place in the order of all epochs alone: not on the batch, the
    devices, or the steps before.

    Args:
        transform: Of single images, such as `compose(random_view(...), random_colour())`; it sees partners too.
        mixes: Applied one after the other, to an image and partners that are drawn from the whole set.

    Returns:
        `feed(dataset, places, key) -> {"image": [N, h, w, C], "label": [N, h, w]}`: a pure function, of `places` as of
        `make_places`, `[N]` each, and the key of the run.
    """
    takes = max((mix.takes for mix in mixes), default=1)

    def augmented(key: Key, images: Array, labels: Array) -> tuple[Array, Array]:
        if takes == 1:
            return transform(key, images[0], labels[0])
        single, *others = jax.random.split(key, 1 + len(mixes))
        images, labels = jax.vmap(transform)(jax.random.split(single, takes), images, labels)
        for mix, own in zip(mixes, others, strict=True):
            image, label = mix(own, images, labels)
            images, labels = images.at[0].set(image), labels.at[0].set(label)
        return images[0], labels[0]

    def feed(dataset: OnDevice, places: Mapping[str, Array], key: Key) -> Batch:
        run = jax.random.fold_in(key, _STREAM)

        def own(epoch: Array, place: Array) -> Array:
            return jax.random.split(jax.random.fold_in(jax.random.fold_in(run, epoch), place))

        keys = jax.vmap(own)(places["epoch"], places["place"])
        index = places["index"][:, None]
        if takes > 1:
            others, top = (takes - 1,), len(dataset)
            draw = jax.vmap(lambda key: jax.random.randint(key, others, 0, top, index.dtype))
            index = jnp.concatenate([index, draw(keys[:, 1])], axis=1)
        image, label = jax.vmap(augmented)(keys[:, 0], *dataset.take(index))
        return {"image": image, "label": label}

    return feed


def _size(image: Any) -> str:
    return " x ".join(map(str, image.shape)) + f" {image.dtype}"
