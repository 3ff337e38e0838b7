"""Putting transforms together, and mapping them over a batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array, Key

Transform = Callable[[Key, Array, Array], tuple[Array, Array]]
"""`(key, image [H, W, C], label [H, W]) -> (image, label)`."""


def compose(*transforms: Transform) -> Transform:
    """One transform after the other, each with a key of its own.

    >>> def add(key, image, label):
    ...     return image + 1, label
    >>> int(compose(add, add)(jax.random.key(0), jnp.zeros(()), jnp.zeros(()))[0])
    2
    """

    def transform(key: Key, image: Array, label: Array) -> tuple[Array, Array]:
        for index, each in enumerate(transforms):
            image, label = each(jax.random.fold_in(key, index), image, label)
        return image, label

    return transform


def sometimes(probability: float, transform: Transform) -> Transform:
    """A transform that leaves image and label as they are but for a part of the time; it must keep their shapes.

    Args:
        probability: How often it does something, in [0, 1].
        transform: What it does then. It is computed always: devices do not branch within a batch.

    Raises:
        InputError: Another probability.
    """
    if not 0 <= probability <= 1:
        raise InputError(f"a probability lies in 0..1, got {probability}")

    def chosen(key: Key, image: Array, label: Array) -> tuple[Array, Array]:
        often, draw = jax.random.split(key)
        changed = transform(draw, image, label)
        happens = jax.random.bernoulli(often, probability)
        return jnp.where(happens, changed[0], image), jnp.where(happens, changed[1], label)

    return chosen


def vmapped(transform: Transform) -> Transform:
    """A transform of batches, `(keys [N], images [N, H, W, C], labels [N, H, W]) -> (images, labels)`."""
    return jax.vmap(transform)
