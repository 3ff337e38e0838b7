"""True and false positives and negatives of each class, which is all that most scores are made of."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseg.errors import InputError
from jaxseg.metrics import exact_integers
from jaxseg.metrics.confusion import ConfusionMatrix
from jaxseg.metrics.multilabel import MultilabelCounts
from jaxseg.typing import Array


class ConfusionCounts(NamedTuple):
    """True and false positives and negatives of each class against all others, floats `[..., K]`, without ignored pixels.

    For an absent class tp, fp and fn are 0. Each is an exact integer that is rounded once. No score subtracts them from each
    other, so float32 suffices for any number of pixels.

    Attributes:
        tp: True positives: pixels of the class that were predicted as it.
        fp: False positives: pixels of other classes that were predicted as it.
        fn: False negatives: pixels of the class that were predicted as another.
        tn: True negatives: pixels of other classes that were predicted as others.

    >>> confusion_counts(np.array([[3, 1], [0, 4]])).fn.tolist()
    [1.0, 0.0]
    """

    tp: Any
    fp: Any
    fn: Any
    tn: Any


Counts = ConfusionMatrix | MultilabelCounts | ConfusionCounts | Array | np.ndarray
"""Counts that scores accept; arrays are integers `[K, K]` with the truth in rows."""


def confusion_counts(counts: Counts) -> ConfusionCounts:
    """True and false positives and negatives of each class.

    Args:
        counts: A `ConfusionMatrix`, `MultilabelCounts`, `[K, K]` counts, or outcomes, which are returned as they are;
            ignored pixels are in none.

    Returns:
        `[..., K]` each: float32 on the device (float64 under x64); float64 on the host, for NumPy counts. Of an absent
        class tp, fp and fn are 0.

    Raises:
        InputError: Arrays that are not `[K, K]` or not of whole numbers.

    >>> confusion_counts(np.array([[3, 1, 0], [0, 4, 0], [1, 0, 1]])).fp.tolist()
    [1.0, 1.0, 0.0]
    """
    if isinstance(counts, ConfusionCounts):
        return counts
    of = _of_tables if isinstance(counts, MultilabelCounts) else _of_matrix
    return ConfusionCounts(*of(tables(counts)))


def foreground(counts: Counts) -> ConfusionCounts:
    """The outcomes of every class but the first, the background: for means over the others, absent and ignored as in all counts.

    Args:
        counts: Counts of any kind.

    Returns:
        `[..., K - 1]` each.

    >>> foreground(np.array([[3, 1, 0], [0, 4, 0], [1, 0, 1]])).tp.tolist()
    [4.0, 1.0]
    """
    return ConfusionCounts(*(part[..., 1:] for part in confusion_counts(counts)))


def tables(counts: Counts) -> exact_integers.Limbs:
    """Exact tables of truth against prediction, `[..., T, T, 3]` limbs: one, or one for each class of several labels.

    Raises:
        InputError: Arrays that are not `[K, K]` or not of whole numbers, and outcomes.
    """
    if isinstance(counts, ConfusionMatrix | MultilabelCounts):
        return counts.limbs
    if isinstance(counts, ConfusionCounts):
        raise InputError("this score needs whole tables, not the outcomes of each class alone")
    array = counts if isinstance(counts, jax.Array) else np.asarray(counts)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise InputError(f"counts are [K, K] with the truth in rows, not {array.shape}")
    if isinstance(array, np.ndarray) and array.dtype.kind == "f":
        if not ((np.abs(array) < 2.0**63) & (array == np.floor(array))).all():
            raise InputError(
                "counts are whole numbers of pixels; those of a normalised matrix have other scores"
            )
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(f"counts are whole numbers of pixels, not {array.dtype}")
    if isinstance(array, np.ndarray) and array.size and array.min() < 0:
        raise InputError(f"counts are not negative, one is {array.min()}")
    return exact_integers.from_counts(array)


def marginals(limbs: exact_integers.Limbs) -> tuple[Any, Any, Any, Any]:
    """Right, true and predicted pixels of each class, `[..., T, 3]` limbs, and all pixels, `[..., 3]`."""
    namespace = exact_integers.namespace(limbs)
    right = namespace.moveaxis(namespace.diagonal(limbs, axis1=-3, axis2=-2), -2, -1)
    true, predicted = exact_integers.total(limbs, -1), exact_integers.total(limbs, -2)
    return right, true, predicted, exact_integers.total(true, -1)


@exact_integers.compiled
def _of_matrix(limbs: exact_integers.Limbs) -> tuple[Any, ...]:
    tp, true, predicted, everything = marginals(limbs)
    fp, fn = exact_integers.subtract(predicted, tp), exact_integers.subtract(true, tp)
    tn = exact_integers.subtract(everything[..., None, :], exact_integers.add(true, fp))
    return tuple(exact_integers.to_float(part) for part in (tp, fp, fn, tn))


@exact_integers.compiled
def _of_tables(limbs: exact_integers.Limbs) -> tuple[Any, ...]:
    tn, fp, fn, tp = (
        exact_integers.to_float(limbs[..., i, j, :]) for i in range(2) for j in range(2)
    )
    return tp, fp, fn, tn
