"""Composition of transforms, and their application to batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array, Key

Sample = dict[str, Array]
"""`{"image": [H, W, C], **targets}`, each target `[H, W]` or `[H, W, D]`; or a batch of them, with a leading axis."""
Transform = Callable[[Key, Sample], Sample]
"""`transform(key, sample) -> sample`."""


def compose(*transforms: Transform) -> Transform:
    """Returns the transform that applies several in order, each with its own key.

    >>> def brighten(key, sample):
    ...     return {**sample, "image": sample["image"] + 1}
    >>> int(compose(brighten, brighten)(jax.random.key(0), {"image": jnp.zeros(())})["image"])
    2
    """

    def transform(key: Key, sample: Sample) -> Sample:
        for index, each in enumerate(transforms):
            sample = each(jax.random.fold_in(key, index), sample)
        return sample

    return transform


def sometimes(probability: float, transform: Transform) -> Transform:
    """Returns a transform that is applied with a probability, and returns the sample unchanged otherwise.

    Args:
        probability: In [0, 1].
        transform: Must preserve shapes. It is always computed, since the samples of a batch share one program.

    Raises:
        InputError: The probability is outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise InputError(f"a probability lies in 0..1, got {probability}")

    def applied(key: Key, sample: Sample) -> Sample:
        decision, inner = jax.random.split(key)
        changed = transform(inner, sample)
        happens = jax.random.bernoulli(decision, probability)
        return jax.tree.map(lambda new, old: jnp.where(happens, new, old), changed, sample)

    return applied


def vmapped(transform: Transform) -> Transform:
    """Returns a transform of batches: `(keys [N], {"image": [N, H, W, C], ...}) -> batch`."""
    return jax.vmap(transform)
