"""Which images a step takes from a data set on the device: orders of epochs, and their division into batches."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.data.sampling import cumulative
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key

_STREAM = 2**32 - 2  # no step has this number: the step folds its own into the same key

Order = Callable[[Key, Any], Array]
"""`(key, epoch) -> [L]`: the indices of an epoch's images, in their order."""
Places = Callable[[Key, int, int], dict[str, np.ndarray]]


def shuffled(length: int) -> Order:
    """The order that is a permutation of the set, another one in each epoch: every image once.

    >>> sorted(shuffled(5)(jax.random.key(0), 3).tolist())
    [0, 1, 2, 3, 4]
    """

    def order(key: Key, epoch: Any) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), length).astype(jnp.int32)

    return order


def drawn(weights: Any) -> Order:
    """The order that draws each place anew, an image as often as its weight says.

    Args:
        weights: `[L]`, not negative, such as `rare_class_weights(...)`.

    Raises:
        InputError: Weights that are negative, not finite, or all zero.

    >>> drawn([0.0, 1.0, 0.0])(jax.random.key(0), 0).tolist()
    [1, 1, 1]
    """
    # Sums in double precision, on the host: they decide for all devices alike.
    edges = cumulative(weights, len(weights)).astype(np.float32)

    def order(key: Key, epoch: Any) -> Array:
        at = jax.random.uniform(jax.random.fold_in(key, epoch), (len(edges),), jnp.float32)
        return jnp.searchsorted(jnp.asarray(edges), at, side="right").astype(jnp.int32)

    return order


def make_places(
    length: int, batch_size: int, *, order: Order | None = None, shard: tuple[int, int] = (0, 1)
) -> Places:
    """Divides the orders of all epochs, one after the other, into batches.

    As with the loader of the host, epochs follow each other without a gap: where the batch does not divide the set, a
    batch holds the end of one and the beginning of the next. Nothing is dropped, and a set may be smaller than a batch.

    Args:
        length: L, the images of the set.
        batch_size: Images of a batch, over all processes.
        order: Of an epoch's images; `shuffled(length)` by default. It is computed on the device.
        shard: (index, number) of processes; each gets its own rows of every batch.

    Returns:
        `places(key, start, steps)`: for the steps from `start` on, int32 `[N, steps]` of `"index"` (of the image),
        `"epoch"` and `"place"` (in the epoch's order), `N = batch_size / processes`. They depend on the key of the run
        and the number of the step alone.

    Raises:
        InputError: Numbers that do not fit together.

    >>> places = make_places(5, 2)(jax.random.key(0), 1, 3)
    >>> places["epoch"].tolist(), places["place"].tolist()
    ([[0, 0, 1], [0, 1, 1]], [[2, 4, 1], [3, 0, 2]])
    """
    part, count = shard
    if length < 1 or batch_size < 1 or not 0 <= part < count or batch_size % count:
        raise InputError(
            f"{length} images in batches of {batch_size} for {count} processes: the batch is divided over them"
        )
    compute = jax.jit(order or shuffled(length))

    @functools.lru_cache(maxsize=2)
    def of_epoch(key: tuple[int, ...], kind: str, epoch: int) -> np.ndarray:
        run = jax.random.wrap_key_data(jnp.array(key, jnp.uint32), impl=kind)
        return np.asarray(compute(jax.random.fold_in(run, _STREAM), epoch))

    def places(key: Key, start: int, steps: int) -> dict[str, np.ndarray]:
        batches = np.arange(start, start + steps) * batch_size
        rows = np.arange(part * batch_size // count, (part + 1) * batch_size // count)
        epoch, place = np.divmod(batches[None] + rows[:, None], length)
        words = tuple(np.asarray(jax.random.key_data(key)).tolist())
        kind = str(jax.random.key_impl(key))
        index = np.empty_like(place)
        for each in np.unique(epoch):
            index = np.where(epoch == each, of_epoch(words, kind, int(each))[place], index)
        values = {"index": index, "epoch": epoch, "place": place}
        return {name: value.astype(np.int32) for name, value in values.items()}

    return places
