r"""Scores of a confusion matrix: the literature's, from the counts of the whole data set.

With $T_c$ the pixels whose truth is class c, $P_c$ those predicted as c, and $C_c$ those that are both:

| score | of a class | over classes |
|---|---|---|
| accuracy (recall) | $C_c / T_c$ | mean over the classes with $T_c > 0$ |
| IoU (Jaccard index) | $C_c / (T_c + P_c - C_c)$ | mean over the classes with $T_c + P_c > 0$ |
| Dice (F1) | $2 C_c / (T_c + P_c)$ | mean over the classes with $T_c + P_c > 0$ |

A class that the formula says nothing about (0 / 0) is *absent*: not-a-number by itself, left out of every mean, neither
1 nor 0. A class without truth that was predicted somewhere is not absent: its IoU is 0. One confusion matrix is summed
over the data set first and scored once; means over images or batches of such scores are other numbers.

Each function takes a `ConfusionMatrix`, or `[K, K]` counts with the truth in rows. NumPy counts are scored in float64 on
the host, with a NumPy result; anything else on the device, under jit too, in float32 (float64 under x64). With one
sigmoid there are two classes, background and foreground, and means are over both.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.metrics.confusion import ConfusionMatrix
from jaxseg.typing import Array

Counts = ConfusionMatrix | Array | np.ndarray
Score = Array | np.ndarray


def pixel_accuracy(counts: Counts) -> Score:
    r"""The share of pixels that are right: $\sum_c C_c / \sum_c T_c$; not-a-number without pixels.

    Args:
        counts: A `ConfusionMatrix`, or `[K, K]` counts.

    Returns:
        A scalar.

    >>> float(pixel_accuracy(np.array([[3, 1], [0, 4]])))
    0.875
    """
    true, _, right = _marginals(counts)
    return _ratio(right.sum(), true.sum())


def mean_accuracy(counts: Counts) -> Score:
    r"""The mean over classes with truth of the share of their pixels that are right, $C_c / T_c$.

    Args:
        counts: A `ConfusionMatrix`, or `[K, K]` counts.

    Returns:
        A scalar; not-a-number without pixels.

    >>> float(mean_accuracy(np.array([[3, 1], [0, 4]])))
    0.875
    """
    true, _, right = _marginals(counts)
    return _mean(_ratio(right, true))


def iou(counts: Counts) -> Score:
    r"""The intersection over union of each class, $C_c / (T_c + P_c - C_c)$.

    Args:
        counts: A `ConfusionMatrix`, or `[K, K]` counts.

    Returns:
        `[K]`; not-a-number for classes that are neither in the truth nor in the predictions.

    >>> iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).tolist()
    [0.75, 0.8, nan]
    """
    true, predicted, right = _marginals(counts)
    return _ratio(right, true + predicted - right)


def mean_iou(counts: Counts) -> Score:
    r"""The mean intersection over union (mIoU) of papers: `iou` averaged over the classes that are there.

    Args:
        counts: A `ConfusionMatrix`, or `[K, K]` counts, of the whole data set.

    Returns:
        A scalar; not-a-number without pixels.

    >>> float(mean_iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4))
    0.775

    References:
        Everingham, Eslami, Van Gool, Williams, Winn and Zisserman, The Pascal Visual Object Classes Challenge: A
        Retrospective, 2015, https://doi.org/10.1007/s11263-014-0733-5; Long, Shelhamer and Darrell, Fully Convolutional
        Networks for Semantic Segmentation, 2015, https://arxiv.org/abs/1411.4038. Absent classes do not occur there.
    """
    return _mean(iou(counts))


def dice(counts: Counts) -> Score:
    r"""The Dice coefficient (F1 score) of each class, $2 C_c / (T_c + P_c)$.

    Args:
        counts: A `ConfusionMatrix`, or `[K, K]` counts.

    Returns:
        `[K]`; not-a-number for classes that are neither in the truth nor in the predictions.

    >>> dice(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4).tolist()
    [0.8571, 0.8889, nan]
    """
    true, predicted, right = _marginals(counts)
    return _ratio(2 * right, true + predicted)


def mean_dice(counts: Counts) -> Score:
    """The mean of `dice` over the classes that are there.

    Args:
        counts: A `ConfusionMatrix`, or `[K, K]` counts.

    Returns:
        A scalar; not-a-number without pixels.

    >>> float(mean_dice(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4))
    0.873
    """
    return _mean(dice(counts))


def frequency_weighted_iou(counts: Counts) -> Score:
    r"""The mean of `iou` weighted by how frequent each class is in the truth, $\sum_c T_c\, \mathrm{IoU}_c / \sum_c T_c$.

    Args:
        counts: A `ConfusionMatrix`, or `[K, K]` counts.

    Returns:
        A scalar; not-a-number without pixels.

    >>> float(frequency_weighted_iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])))
    0.775
    """
    true, predicted, right = _marginals(counts)
    union = true + predicted - right
    xp = _namespace(true)
    scores = right / xp.where(union == 0, 1, union)
    return _ratio((true * scores).sum(), true.sum())


def _marginals(counts: Counts) -> tuple[Any, Any, Any]:
    """True, predicted and right pixels of each class, `[K]` each, floating."""
    if isinstance(counts, ConfusionMatrix):
        counts = counts.to_float()
    elif isinstance(counts, jax.Array):
        counts = counts.astype(jnp.result_type(float))
    else:
        counts = np.asarray(counts, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise InputError(f"counts are [K, K] with the truth in rows, not {counts.shape}")
    return counts.sum(1), counts.sum(0), counts.diagonal()


def _namespace(array: Score) -> Any:
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def _ratio(numerator: Any, denominator: Any) -> Any:
    """The quotient; not-a-number, without a warning, where the denominator is 0."""
    xp = _namespace(denominator)
    absent = denominator == 0
    return xp.where(absent, xp.nan, numerator / xp.where(absent, 1, denominator))


def _mean(scores: Any) -> Any:
    """The mean of the scores that are numbers."""
    xp = _namespace(scores)
    present = ~xp.isnan(scores)
    return _ratio(xp.where(present, scores, 0).sum(), present.sum().astype(scores.dtype))
