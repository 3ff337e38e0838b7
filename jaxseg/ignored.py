"""Labels of pixels that count nowhere, read alike by losses and metrics."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxseg.typing import Array

Ignored = int | Sequence[int] | None
"""The label of pixels that count nowhere, several such labels, or None where every pixel counts."""


def is_ignored(labels: Array, ignore_index: Ignored) -> Array:
    """Returns where labels are ignored, a bool array of their shape.

    Args:
        labels: Of any numeric type and shape.
        ignore_index: One label, which may be traced, several, or None.

    >>> labels = jnp.array([0, 1, 255])
    >>> [is_ignored(labels, ignored).tolist() for ignored in (255, (0, 255), None)]
    [[False, False, True], [True, False, True], [False, False, False]]
    """
    if ignore_index is None:
        return jnp.zeros(labels.shape, bool)
    if not isinstance(ignore_index, Sequence):
        return labels == ignore_index
    found = jnp.zeros(labels.shape, bool)
    for label in ignore_index:
        found |= labels == label
    return found
