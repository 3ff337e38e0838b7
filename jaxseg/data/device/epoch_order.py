"""The order of images in each epoch, and its division into the batches of steps, for data sets on the device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.data.host.sampling import cumulative
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key

_STREAM = 2**32 - 2  # no step has this number: the step folds its own into the same key

Order = Callable[[Key, Any], Array]
"""`order(key, epoch) -> [L]`: the indices of an epoch's images, in their order."""
Sampler = Callable[[Key, int, int], dict[str, np.ndarray]]
"""`sampler(key, start, steps) -> schedule`: the images of each step, see `make_sampler`."""


def shuffled(length: int) -> Order:
    """Returns the order that permutes the data set, differently in each epoch.

    >>> sorted(shuffled(5)(jax.random.key(0), 3).tolist())
    [0, 1, 2, 3, 4]
    """

    def order(key: Key, epoch: Any) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), length).astype(jnp.int32)

    return order


def weighted(weights: Any) -> Order:
    """Returns the order that samples images with replacement, with probabilities proportional to weights.

    Args:
        weights: `[L]`, not negative, such as `rare_class_weights(...)`.

    Raises:
        InputError: Weights are negative, not finite, or all zero.

    >>> weighted([0.0, 1.0, 0.0])(jax.random.key(0), 0).tolist()
    [1, 1, 1]
    """
    # Summed in double precision on the host, so that all devices use the same edges.
    edges = cumulative(weights, len(weights)).astype(np.float32)

    def order(key: Key, epoch: Any) -> Array:
        values = jax.random.uniform(jax.random.fold_in(key, epoch), (len(edges),), jnp.float32)
        return jnp.searchsorted(jnp.asarray(edges), values, side="right").astype(jnp.int32)

    return order


def make_sampler(
    length: int, batch_size: int, *, order: Order | None = None, shard: tuple[int, int] = (0, 1)
) -> Sampler:
    """Returns a function that divides the orders of consecutive epochs into batches.

    As with the host's loader, epochs follow each other without a gap: if the batch size does not divide the data set, a batch
    holds the end of one epoch and the beginning of the next. Nothing is dropped, and a data set may be smaller than a batch.

    Args:
        length: L, the number of images.
        batch_size: Images in a batch, over all processes.
        order: The order of an epoch's images, computed on the device; `shuffled(length)` by default.
        shard: (index, count) of processes; each gets its rows of every batch.

    Returns:
        `sampler(key, start, steps)`, which returns the schedule of the steps from `start` on: int32 `[N, steps]` of `"index"`
        (of the image), `"epoch"` and `"position"` (in the epoch's order), with `N = batch_size / processes`. It depends only on
        the key of the run and the number of each step.

    Raises:
        InputError: The processes do not divide the batch, or a number is out of range.

    >>> schedule = make_sampler(5, 2)(jax.random.key(0), 1, 3)
    >>> schedule["epoch"].tolist(), schedule["position"].tolist()
    ([[0, 0, 1], [0, 1, 1]], [[2, 4, 1], [3, 0, 2]])
    """
    part, count = shard
    if length < 1 or batch_size < 1 or not 0 <= part < count or batch_size % count:
        raise InputError(
            f"{length} images in batches of {batch_size} for {count} processes: the processes must divide the batch"
        )
    compute = jax.jit(order or shuffled(length))

    @functools.lru_cache(maxsize=2)
    def epoch_order(key_data: tuple[int, ...], key_impl: str, epoch: int) -> np.ndarray:
        key = jax.random.wrap_key_data(jnp.array(key_data, jnp.uint32), impl=key_impl)
        return np.asarray(compute(jax.random.fold_in(key, _STREAM), epoch))

    def sampler(key: Key, start: int, steps: int) -> dict[str, np.ndarray]:
        batches = np.arange(start, start + steps) * batch_size
        rows = np.arange(part * batch_size // count, (part + 1) * batch_size // count)
        epoch, position = np.divmod(batches[None] + rows[:, None], length)
        key_data = tuple(np.asarray(jax.random.key_data(key)).tolist())
        key_impl = str(jax.random.key_impl(key))
        index = np.empty_like(position)
        for each in np.unique(epoch):
            indices = epoch_order(key_data, key_impl, int(each))
            index = np.where(epoch == each, indices[position], index)
        schedule = {"index": index, "epoch": epoch, "position": position}
        return {name: values.astype(np.int32) for name, values in schedule.items()}

    return sampler
