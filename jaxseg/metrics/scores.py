r"""Scores of each class, from counts of the whole data set, and the means of them that papers report.

With the true and false positives and negatives of class c ($\mathrm{tp}_c$, ...), one class against all others:

| score | of a class |
|---|---|
| `iou` (Jaccard index) | tp / (tp + fp + fn) |
| `dice` (F1) | 2 tp / (2 tp + fp + fn) |
| `precision` | tp / (tp + fp) |
| `recall` (accuracy of a class, sensitivity) | tp / (tp + fn) |
| `specificity` | tn / (tn + fp) |

A class that the formula says nothing about (0 / 0) is *absent*: NaN by itself, left out of every mean, neither
1 nor 0. A class without truth that was predicted somewhere is not absent: its IoU is 0. One confusion matrix is summed
over the data set first and scored once; means over images or batches of such scores are other numbers.

Each function takes a `ConfusionMatrix`, `MultilabelCounts`, `ConfusionCounts`, or `[K, K]` integer counts with the truth in
rows. NumPy counts (and pytrees that `jax.device_get` brought to the host) are scored in float64 on the host, with a
NumPy result; anything else on the device, under jit too, in float32 (float64 under x64). With one sigmoid there are two
classes, background and foreground, and means are over both. Counts with leading axes, such as of
`ConfusionMatrix.per_image`, give scores with leading axes.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.metrics import exact_integers
from jaxseg.metrics.confusion_counts import (
    ConfusionCounts,
    Counts,
    confusion_counts,
    marginals,
    tables,
)
from jaxseg.metrics.multilabel import MultilabelCounts
from jaxseg.typing import Array

Score = Array | np.ndarray
ScoreFn = Callable[[Any], Any]
"""A score of each class: a function from counts to `[..., K]`."""


def iou(counts: Counts) -> Score:
    r"""The intersection over union of each class, $\mathrm{tp} / (\mathrm{tp} + \mathrm{fp} + \mathrm{fn})$.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        `[K]`; NaN for classes that are neither in the truth nor in the predictions.

    >>> iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).tolist()
    [0.75, 0.8, nan]

    References:
        Jaccard, The Distribution of the Flora in the Alpine Zone, 1912, https://doi.org/10.1111/j.1469-8137.1912.tb05611.x
    """
    tp, fp, fn, _ = confusion_counts(counts)
    return ratio(tp, tp + fp + fn)


def dice(counts: Counts) -> Score:
    r"""The Dice coefficient (F1 score) of each class, $2\, \mathrm{tp} / (2\, \mathrm{tp} + \mathrm{fp} + \mathrm{fn})$.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        `[K]`; NaN for classes that are neither in the truth nor in the predictions.

    >>> dice(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4).tolist()
    [0.8571, 0.8889, nan]

    References:
        Dice, Measures of the Amount of Ecologic Association Between Species, 1945, https://doi.org/10.2307/1932409
    """
    return f_beta(counts, beta=1.0)


def f_beta(counts: Counts, *, beta: float) -> Score:
    r"""The F-beta score of each class: the harmonic mean of precision and recall, with recall $\beta^2$ times as heavy.

    $$ F_\beta = \frac{(1 + \beta^2)\, \mathrm{tp}}{(1 + \beta^2)\, \mathrm{tp} + \beta^2\, \mathrm{fn} + \mathrm{fp}} $$

    Args:
        counts: Counts of any kind; ignored pixels are in none.
        beta: How many times as important recall is as precision, 0 or more; 1 gives `dice`.

    Returns:
        `[K]`; NaN for classes that are neither in the truth nor in the predictions.

    Raises:
        InputError: `beta` is negative or not finite.

    >>> f_beta(np.array([[3, 1], [0, 4]]), beta=2.0).round(4).tolist()
    [0.7895, 0.9524]

    References:
        van Rijsbergen, Information Retrieval, 1979 (second edition), chapter 7, https://www.dcs.gla.ac.uk/Keith/Preface.html
    """
    if not 0 <= beta < float("inf"):
        raise InputError(f"beta is {beta}, it is finite and not negative")
    tp, fp, fn, _ = confusion_counts(counts)
    square = beta * beta
    return ratio((1 + square) * tp, (1 + square) * tp + square * fn + fp)


def precision(counts: Counts) -> Score:
    r"""The share of the pixels predicted as a class that are of it, $\mathrm{tp} / (\mathrm{tp} + \mathrm{fp})$.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        `[K]`; NaN for classes that were never predicted, also where they are in the truth. Equal to
        scikit-learn's with `zero_division=np.nan`.

    >>> precision(np.array([[3, 1, 0], [0, 4, 0], [0, 2, 0]])).round(4).tolist()
    [1.0, 0.5714, nan]

    References:
        Kent, Berry, Luehrs and Perry, Machine Literature Searching VIII: Operational Criteria for Designing Information
        Retrieval Systems, 1955, https://doi.org/10.1002/asi.5090060209
    """
    tp, fp, _, _ = confusion_counts(counts)
    return ratio(tp, tp + fp)


def recall(counts: Counts) -> Score:
    r"""The share of the pixels of a class that were found, $\mathrm{tp} / (\mathrm{tp} + \mathrm{fn})$: its accuracy.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        `[K]`; NaN for classes that are not in the truth.

    >>> recall(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).tolist()
    [0.75, 1.0, nan]

    References:
        Kent, Berry, Luehrs and Perry, Machine Literature Searching VIII: Operational Criteria for Designing Information
        Retrieval Systems, 1955, https://doi.org/10.1002/asi.5090060209
    """
    tp, _, fn, _ = confusion_counts(counts)
    return ratio(tp, tp + fn)


def specificity(counts: Counts) -> Score:
    r"""The share of the pixels of other classes that were left alone, $\mathrm{tn} / (\mathrm{tn} + \mathrm{fp})$.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        `[K]`; NaN where every pixel is of the class.

    >>> specificity(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).tolist()
    [1.0, 0.75, 1.0]

    References:
        Yerushalmy, Statistical Problems in Assessing Methods of Medical Diagnosis, with Special Reference to X-Ray
        Techniques, 1947, https://doi.org/10.2307/4586294
    """
    _, fp, _, tn = confusion_counts(counts)
    return ratio(tn, tn + fp)


def macro(score: ScoreFn, counts: Counts) -> Score:
    r"""The mean of a score over the classes that have one, $\sum_{c \in C} s_c / |C|$; absent ones have none.

    Args:
        score: Such as `iou`; options are bound before, `functools.partial(f_beta, beta=2.0)`.
        counts: Counts of any kind that the score takes, without ignored pixels; `foreground(counts)` leaves the background out.

    Returns:
        A scalar; NaN where no class has the score.

    >>> float(macro(precision, np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4))
    0.9

    References:
        Sokolova and Lapalme, A systematic analysis of performance measures for classification tasks, 2009,
        https://doi.org/10.1016/j.ipm.2009.03.002
    """
    return mean_of_numbers(score(confusion_counts(counts)))


def micro(score: ScoreFn, counts: Counts) -> Score:
    r"""A score of all classes taken together: true and false positives and negatives are summed over them first.

    $$ s\left(\sum_c \mathrm{tp}_c, \sum_c \mathrm{fp}_c, \sum_c \mathrm{fn}_c, \sum_c \mathrm{tn}_c\right) $$

    Absent classes add nothing, frequent ones dominate. Where every pixel has one class, micro precision, recall and Dice are all `pixel_accuracy`.

    Args:
        score: Such as `iou`.
        counts: Counts of any kind that the score takes; ignored pixels are in none.

    Returns:
        A scalar; NaN without pixels.

    >>> float(micro(iou, np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4))
    0.7778

    References:
        Sokolova and Lapalme, A systematic analysis of performance measures for classification tasks, 2009,
        https://doi.org/10.1016/j.ipm.2009.03.002
    """
    return score(
        ConfusionCounts(*(sum_in_pairs(part)[..., None] for part in confusion_counts(counts)))
    )[..., 0]


def weighted(score: ScoreFn, counts: Counts) -> Score:
    r"""The mean of a score weighted by how frequent each class is in the truth, $\sum_c T_c s_c / \sum_c T_c$.

    Args:
        score: Such as `iou`.
        counts: Counts of any kind that the score takes; ignored pixels are in none.

    Returns:
        A scalar; classes without the score are left out, of the weights too; NaN where none is left.

    >>> float(weighted(dice, np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4))
    0.873

    References:
        scikit-learn's `average="weighted"`: Pedregosa et al., Scikit-learn: Machine Learning in Python, 2011,
        https://jmlr.org/papers/v12/pedregosa11a.html
    """
    parts = confusion_counts(counts)
    return mean_of_numbers(score(parts), parts.tp + parts.fn)


def pixel_accuracy(counts: Counts) -> Score:
    r"""The share of pixels that are right, $\sum_c \mathrm{tp}_c / n$; of several labels a pixel, the share of right labels.

    Args:
        counts: A `ConfusionMatrix`, `MultilabelCounts`, or `[K, K]` counts; ignored pixels are in none.

    Returns:
        A scalar; NaN without pixels.

    Raises:
        InputError: For outcomes, which do not say how many pixels there were.

    >>> float(pixel_accuracy(np.array([[3, 1], [0, 4]])))
    0.875

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038
    """
    right, everything = _right_of_all(tables(counts))
    if isinstance(counts, MultilabelCounts):
        right, everything = exact_integers.total(right, -1), exact_integers.total(everything, -1)
    return ratio(exact_integers.to_float(right), exact_integers.to_float(everything))


def mean_accuracy(counts: Counts) -> Score:
    r"""The mean of `recall` over the classes with truth, $\sum_{c \in C} (\mathrm{tp}_c / T_c) / |C|$: mAcc, balanced accuracy.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        A scalar; NaN without pixels.

    >>> float(mean_accuracy(np.array([[3, 1], [0, 4]])))
    0.875

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038
    """
    return macro(recall, counts)


def mean_iou(counts: Counts) -> Score:
    r"""The mean intersection over union (mIoU) of papers: `iou` averaged over the classes that are there.

    $\sum_{c \in C} \mathrm{IoU}_c / |C|$, with C the classes that are in truth or predictions, absent ones left out.

    Args:
        counts: Counts of any kind, of the whole data set; ignored pixels are in none.

    Returns:
        A scalar; NaN without pixels.

    >>> float(mean_iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4))
    0.775

    References:
        Everingham, Eslami, Van Gool, Williams, Winn and Zisserman, The Pascal Visual Object Classes Challenge: A
        Retrospective, 2015, https://doi.org/10.1007/s11263-014-0733-5; Long, Shelhamer and Darrell, Fully Convolutional
        Networks for Semantic Segmentation, 2015, https://arxiv.org/abs/1411.4038. Absent classes do not occur there.
    """
    return macro(iou, counts)


def mean_dice(counts: Counts) -> Score:
    r"""The mean of `dice` over the classes that are there, $\sum_{c \in C} \mathrm{Dice}_c / |C|$, absent ones left out.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        A scalar; NaN without pixels.

    >>> float(mean_dice(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).round(4))
    0.873

    References:
        Dice (see `dice`); mmsegmentation's `mDice`, https://mmsegmentation.readthedocs.io/en/latest/
    """
    return macro(dice, counts)


def frequency_weighted_iou(counts: Counts) -> Score:
    r"""The mean of `iou` weighted by how frequent each class is in the truth, $\sum_c T_c\, \mathrm{IoU}_c / \sum_c T_c$.

    Args:
        counts: Counts of any kind; ignored pixels are in none.

    Returns:
        A scalar; NaN without pixels.

    >>> float(frequency_weighted_iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])))
    0.775

    References:
        Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
        https://arxiv.org/abs/1411.4038
    """
    return weighted(iou, counts)


@exact_integers.compiled
def _right_of_all(limbs: exact_integers.Limbs) -> tuple[exact_integers.Limbs, exact_integers.Limbs]:
    """Returns the number of correct pixels of each table, and of all pixels."""
    right, _, _, everything = marginals(limbs)
    return exact_integers.total(right, -1), everything


def ratio(numerator: Any, denominator: Any) -> Any:
    """The quotient; NaN, without a warning, where the denominator is 0."""
    xp = exact_integers.namespace(denominator)
    absent = denominator == 0
    return xp.where(absent, xp.nan, numerator / xp.where(absent, 1, denominator))


def mean_of_numbers(scores: Any, weights: Any = None) -> Any:
    """The mean over the last axis of the scores that are numbers, weighted by weights that are not negative."""
    xp = exact_integers.namespace(scores)
    present = ~xp.isnan(scores)
    weights = present.astype(scores.dtype) if weights is None else xp.where(present, weights, 0)
    return ratio(sum_in_pairs(xp.where(present, scores, 0) * weights), sum_in_pairs(weights))


def sum_in_pairs(x: Any) -> Any:
    """The sum over the last axis, in pairs: its error hardly grows with the number of summands."""
    if isinstance(x, np.ndarray):
        return x.sum(-1)
    while x.shape[-1] > 1:
        half = -(-x.shape[-1] // 2)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 2 * half - x.shape[-1])])
        x = x[..., :half] + x[..., half:]
    return x[..., 0]
