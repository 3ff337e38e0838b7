"""Class ids of pixels on the device: from logits, mapped to other ids, and which of them count."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored, is_ignored
from jaxseg.typing import Array


def labels_from_logits(logits: Array, *, threshold: float = 0.5) -> Array:
    r"""The most probable class of each pixel; for one sigmoid, 1 where its probability is above the threshold.

    A probability is above t where its logit is above $\log(t / (1 - t))$, which is what is compared. Pixels that are to be
    ignored may hold anything, NaN too: their label says so, not their prediction.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        threshold: t in `[0, 1]`, for one sigmoid only.

    Returns:
        `[N, H, W]` int32: `0..max(K, 2)-1`; of equally probable classes the first.

    Raises:
        InputError: The threshold lies outside `[0, 1]`, or is not one half though there are several classes.

    >>> labels_from_logits(jnp.array([[[[-1.0], [2.0]]]])).tolist()
    [[[0, 1]]]
    >>> labels_from_logits(jnp.array([[[[-1.0], [2.0]]]]), threshold=0.9).tolist()
    [[[0, 0]]]
    >>> labels_from_logits(jnp.array([[[[1.0, 3.0, 2.0]]]])).tolist()
    [[[1]]]
    """
    if logits.shape[-1] == 1:
        return multilabel_from_logits(logits, threshold=threshold)[..., 0]
    if threshold != 0.5:
        raise InputError(
            f"threshold {threshold} needs one logit, there are {logits.shape[-1]}: several classes are compared with "
            "each other; for independent ones take multilabel_from_logits"
        )
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def multilabel_from_logits(logits: Array, *, threshold: float = 0.5) -> Array:
    r"""1 where the sigmoid of a class is above the threshold, for classes that do not exclude each other.

    What is to be ignored may hold anything, NaN too: its label says so, not its prediction.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        threshold: t in `[0, 1]`: logits are compared with $\log(t / (1 - t))$.

    Returns:
        `[N, H, W, K]` int32 of 0 and 1.

    Raises:
        InputError: The threshold lies outside `[0, 1]`.

    >>> multilabel_from_logits(jnp.array([[[[-1.0, 2.0]]]])).tolist()
    [[[[0, 1]]]]
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}, it is a probability and lies in [0, 1]")
    if threshold in (0, 1):
        cutoff = -math.inf if threshold == 0 else math.inf
    else:
        cutoff = math.log(threshold) - math.log1p(-threshold)
    return (widened(logits) > cutoff).astype(jnp.int32)


def map_labels(labels: Array, table: Sequence[int], *, ignore_index: int = 255) -> Array:
    """Other ids for the same pixels, on the device: merged classes, dropped ones, a shift by one.

    The map of a data set is applied to its masks when they are read (`jaxseg.data.LabelMap`); this one scores labels
    and predictions under another map than the one that was trained: `map_labels(x, data.LabelMap({...})(np.arange(K)))`
    uses one of those. ADE20K's `reduce_zero_label` is the table `(255, 0, 1, ..., 149)`.

    Args:
        labels: Any shape, any integer type: labels, or predictions.
        table: The new id of each of the ids `0, 1, ...`, which may be `ignore_index`.
        ignore_index: What other ids become, among them labels that are ignored already.

    Returns:
        int32 of the same shape.

    Raises:
        InputError: The table is empty or not of whole numbers.

    >>> map_labels(jnp.array([0, 1, 2, 3, 255]), (255, 0, 1, 1)).tolist()
    [255, 0, 1, 1, 255]
    """
    values = np.asarray(table)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iu":
        raise InputError(
            f"a table is the new id of each id, whole numbers, not {np.asarray(table)}"
        )
    labels = as_int32(jnp.asarray(labels), "labels")
    known = (labels >= 0) & (labels < len(values))
    mapped = jnp.asarray(values.astype(np.int32))[jnp.where(known, labels, 0)]
    return jnp.where(known, mapped, ignore_index)


def counted(labels: Array, ignore_index: Ignored, size: int) -> Array:
    """Where an int32 label is one of `0..size-1` and none of those that are ignored."""
    return (labels >= 0) & (labels < size) & ~is_ignored(labels, ignore_index)


def as_int32(array: Array, name: str) -> Array:
    """Integers as int32; those that do not fit become its limits, which are no classes.

    Raises:
        InputError: The array is not of integers.
    """
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputError(f"{name} are class ids, integers, not {array.dtype}")
    limits = jnp.iinfo(jnp.int32)
    if jnp.iinfo(array.dtype).max > limits.max:
        low = limits.min if jnp.iinfo(array.dtype).min < 0 else 0
        array = jnp.clip(array, low, limits.max)
    return array.astype(jnp.int32)


def widened(array: Array) -> Array:
    """Floats in float32 at least."""
    return array.astype(jnp.float32) if jnp.finfo(array.dtype).bits < 32 else array
