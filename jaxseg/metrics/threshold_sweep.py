r"""Every score at 256 thresholds from one pass over the data, and the curves that follow.

A pixel is predicted as a class where its probability p is at least the threshold t. Which of the thresholds
$t_b = b / B$ it passes is told by the last one alone, so that counting pixels by truth and by that number is all there is
to keep: two histograms a class. The true and false positives of every threshold are sums of their bins, whole numbers,
exactly those that counting at each threshold gives.
"""

from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.metrics import exact_integers
from jaxseg.metrics.confusion_counts import ConfusionCounts
from jaxseg.metrics.histogram import bin_of, edges, histogram
from jaxseg.metrics.predictions import as_int32, counted
from jaxseg.metrics.scores import ScoreFn, precision, ratio, recall, sum_in_pairs
from jaxseg.typing import Array


@flax.struct.dataclass
class ThresholdSweep:
    r"""Numbers of pixels with and without a class whose probability is in each bin, `[K, B, 2]`.

    For binary, multiclass (each class against the others) and multilabel targets. Counts are exact whatever their size. Ignored
    pixels are in no bin, and an absent class has counts like any other: what is 0 / 0 of them is for the scores to say.

    Attributes:
        limbs: `[K, B, 2, 3]` uint32: of class c, bin b holds probabilities $b/B \le p < (b + 1)/B$, the last one 1 too;
            `[..., 0]` those of pixels without the class and `[..., 1]` those with it.

    >>> sweep = ThresholdSweep.zero(1, thresholds=4)
    >>> probabilities = jnp.array([0.1, 0.6, 0.5, 0.9]).reshape(1, 1, 4, 1)
    >>> sweep = sweep.update(labels=jnp.array([[[0, 1, 0, 1]]]), probabilities=probabilities)
    >>> from jaxseg.metrics import iou
    >>> print(iou(sweep.confusion_counts())[:, 0])
    [0.5       0.6666667 0.6666667 0.5      ]

    References:
        Fawcett, An introduction to ROC analysis, 2006, https://doi.org/10.1016/j.patrec.2005.10.010 (algorithm 1 sorts
        probabilities where this counts them by bin).
    """

    limbs: Array

    @classmethod
    def zero(cls, num_classes: int, *, thresholds: int = 256) -> "ThresholdSweep":
        """Counts of nothing.

        Args:
            num_classes: K of the probabilities; 1 stands for one sigmoid, the probability of label 1.
            thresholds: B: `0, 1/B, ..., (B - 1)/B`, so that one half is among them where B is even.

        Raises:
            InputError: There is no class or no threshold, or more than 65,536 thresholds.
        """
        if num_classes < 1 or not 1 <= thresholds <= 1 << 16:
            raise InputError(
                f"{num_classes} classes and {thresholds} thresholds: there must be 1 class or more, and 1 to 65,536 "
                "thresholds"
            )
        return cls(jnp.zeros((num_classes, thresholds, 2, 3), jnp.uint32))

    @property
    def num_classes(self) -> int:
        """K."""
        return self.limbs.shape[-4]

    @property
    def thresholds(self) -> np.ndarray:
        """`[B]` float32: every threshold, from 0 upwards."""
        return edges(self.limbs.shape[-3])

    def update(
        self, *, labels: Array, probabilities: Array, ignore_index: Ignored = 255
    ) -> "ThresholdSweep":
        """These counts and those of one more batch: the global one, whatever the parallel strategy.

        Args:
            labels: `[N, H, W]`, class ids, each class being swept against all others (for one sigmoid 0 and 1); or
                `[N, H, W, K]` of 0 and 1 for classes that do not exclude each other. Any integer type.
            probabilities: `[N, H, W, K]`, floating, in `[0, 1]`: `jax.nn.sigmoid` or `jax.nn.softmax` of logits. Below 0
                counts as 0, and so does what is not a number.
            ignore_index: The label of what is not counted, several such labels, or None for none.

        Returns:
            New counts.

        Raises:
            InputError: Shapes or types do not fit.
        """
        classes, bins = self.num_classes, self.limbs.shape[-3]
        positive, valid = _truth(jnp.asarray(labels), probabilities, ignore_index, classes)
        cells = jnp.arange(classes, dtype=jnp.int32) * bins
        cells = (bin_of(probabilities, bins) + cells[(None,) * 3]) * 2 + positive
        size = classes * bins * 2
        counts = histogram(jnp.where(valid, cells, size), size)
        counts = exact_integers.sum_over_devices(counts.reshape(-1, classes, bins, 2))
        return self + ThresholdSweep(counts)

    def __add__(self, other: "ThresholdSweep") -> "ThresholdSweep":
        """The counts of both.

        Raises:
            InputError: They are of different classes or thresholds.
        """
        if self.limbs.shape != other.limbs.shape:
            raise InputError(
                f"counts {self.limbs.shape[:-1]} cannot be added to {other.limbs.shape[:-1]}"
            )
        return ThresholdSweep(exact_integers.add(self.limbs, other.limbs))

    def confusion_counts(self) -> ConfusionCounts:
        """Returns the counts of each class at each threshold, `[B, K]`, for any score: `iou(sweep.confusion_counts())`.

        Returns:
            For one sigmoid `[B, 1]`, those of class 1.
        """
        return _confusion_counts(self.limbs)

    def to_numpy(self) -> np.ndarray:
        """The counts as `[K, B, 2]` int64 on the host.

        Raises:
            OverflowError: A count is 2**63 or more.
        """
        return exact_integers.to_numpy(self.limbs)


class Curve(NamedTuple):
    """A curve of each class, its points in the order of the thresholds, from 0 upwards; of pixels that are not ignored.

    Attributes:
        x: `[B + 1, K]`; the last point stands for a threshold that no pixel passes.
        y: `[B + 1, K]`, NaN where it is not defined.
        thresholds: `[B + 1]`, the last one infinite.

    >>> roc_curve(ThresholdSweep.zero(1, thresholds=2)).thresholds.tolist()
    [0.0, 0.5, inf]
    """

    x: Any
    y: Any
    thresholds: np.ndarray


def precision_recall_curve(sweep: ThresholdSweep) -> Curve:
    r"""Precision (y) over recall (x) of each class, $P_b = \mathrm{tp}_b / (\mathrm{tp}_b + \mathrm{fp}_b)$ over $R_b = \mathrm{tp}_b / T$.

    Where nothing is predicted recall is 0 and precision not a number, while scikit-learn and torchmetrics end their
    curves with a precision of 1. Absent classes, those without truth, have no recall. On probabilities rounded down to the thresholds
    the other points are theirs.

    Args:
        sweep: Of any number of pixels; ignored ones are in none of its counts.

    Returns:
        `[B + 1, K]` points.

    >>> sweep = ThresholdSweep.zero(1, thresholds=4)
    >>> probabilities = jnp.array([0.1, 0.6, 0.5, 0.9]).reshape(1, 1, 4, 1)
    >>> sweep = sweep.update(labels=jnp.array([[[0, 1, 0, 1]]]), probabilities=probabilities)
    >>> [x[:, 0].tolist() for x in precision_recall_curve(sweep)[:2]]
    [[1.0, 1.0, 1.0, 0.5, 0.0], [0.5, 0.6666666865348816, 0.6666666865348816, 1.0, nan]]

    References:
        Davis and Goadrich, The Relationship Between Precision-Recall and ROC Curves, 2006,
        https://doi.org/10.1145/1143844.1143874
    """
    parts = _with_end(sweep.confusion_counts())
    return Curve(recall(parts), precision(parts), _ends(sweep))


def roc_curve(sweep: ThresholdSweep) -> Curve:
    r"""The true positive rate (y, recall) over the false positive rate (x, one less specificity) of each class.

    $\mathrm{tp}_b / T$ over $\mathrm{fp}_b / (n - T)$, with T of n pixels of the class.

    Args:
        sweep: Of any number of pixels; ignored ones are in none of its counts.

    Returns:
        `[B + 1, K]` points, from (1, 1) to (0, 0); NaN for absent classes, without truth or without other pixels.

    >>> sweep = ThresholdSweep.zero(1, thresholds=4)
    >>> probabilities = jnp.array([0.1, 0.6, 0.5, 0.9]).reshape(1, 1, 4, 1)
    >>> sweep = sweep.update(labels=jnp.array([[[0, 1, 0, 1]]]), probabilities=probabilities)
    >>> [x[:, 0].tolist() for x in roc_curve(sweep)[:2]]
    [[1.0, 0.5, 0.5, 0.0, 0.0], [1.0, 1.0, 1.0, 0.5, 0.0]]

    References:
        Fawcett, An introduction to ROC analysis, 2006, https://doi.org/10.1016/j.patrec.2005.10.010
    """
    parts = _with_end(sweep.confusion_counts())
    return Curve(ratio(parts.fp, parts.fp + parts.tn), recall(parts), _ends(sweep))


@exact_integers.compiled
def average_precision(sweep: ThresholdSweep) -> Any:
    r"""The area under the precision-recall curve of each class as a sum of steps, $\sum_b (R_b - R_{b+1})\, P_b$.

    Equal to scikit-learn's `average_precision_score` of probabilities rounded down to the thresholds.

    Args:
        sweep: Of any number of pixels; ignored ones are in none of its counts.

    Returns:
        `[K]`; NaN for absent classes, those without truth.

    >>> sweep = ThresholdSweep.zero(1, thresholds=4)
    >>> probabilities = jnp.array([0.1, 0.6, 0.5, 0.9]).reshape(1, 1, 4, 1)
    >>> sweep = sweep.update(labels=jnp.array([[[0, 1, 0, 1]]]), probabilities=probabilities)
    >>> print(f"{average_precision(sweep)[0]:.4f}")
    0.8333

    References:
        Su, Yuan and Zhu, A Relationship between the Average Precision and the Area Under the ROC Curve, 2015,
        https://doi.org/10.1145/2808194.2809481
    """
    parts = sweep.confusion_counts()
    _, positives = _of_bins(sweep)
    xp = exact_integers.namespace(positives)
    precisions = precision(parts)
    found = positives * xp.where(xp.isnan(precisions), 0, precisions)
    return ratio(sum_in_pairs(found.T), (parts.tp + parts.fn)[0])


@exact_integers.compiled
def area_under_roc(sweep: ThresholdSweep) -> Any:
    r"""The area under the ROC curve of each class: how often a pixel with the class has the higher probability.

    $\sum_b (x_b - x_{b+1}) (y_b + y_{b+1}) / 2$: equal probabilities, those of one bin too, count one half. Equal to
    scikit-learn's `roc_auc_score` of probabilities rounded down to the thresholds.

    Args:
        sweep: Of any number of pixels; ignored ones are in none of its counts.

    Returns:
        `[K]`; NaN for absent classes, without truth or without other pixels.

    >>> sweep = ThresholdSweep.zero(1, thresholds=4)
    >>> probabilities = jnp.array([0.1, 0.6, 0.5, 0.9]).reshape(1, 1, 4, 1)
    >>> sweep = sweep.update(labels=jnp.array([[[0, 1, 0, 1]]]), probabilities=probabilities)
    >>> print(area_under_roc(sweep))
    [0.875]

    References:
        Fawcett, An introduction to ROC analysis, 2006, https://doi.org/10.1016/j.patrec.2005.10.010
    """
    tp, fp, fn, tn = _with_end(sweep.confusion_counts())
    negatives, _ = _of_bins(sweep)
    width = ratio(negatives, (fp + tn)[:1])
    height = ratio(tp[:-1] + tp[1:], 2 * (tp + fn)[:1])
    return sum_in_pairs((width * height).T)


class BestThreshold(NamedTuple):
    """Where a score of the pixels that are not ignored is highest.

    Attributes:
        threshold: `[K]`, the smallest of equally good ones.
        score: `[K]`, the score there; NaN where no threshold has one.

    >>> BestThreshold(threshold=np.array([0.25]), score=np.array([1.0])).threshold.tolist()
    [0.25]
    """

    threshold: Any
    score: Any


def best_threshold(score: ScoreFn, sweep: ThresholdSweep) -> BestThreshold:
    r"""The threshold with the highest score, for each class, $\arg\max_t s_c(t)$.

    It is chosen on the data that it is scored on: choose it on validation data, report it on test data.

    Args:
        score: Such as `iou`.
        sweep: Of any number of pixels; ignored ones are in none of its counts.

    Returns:
        A threshold and a score for each class; 0 and NaN for absent ones. `labels_from_logits(logits, threshold=...)` takes the threshold, and
        differs in pixels whose probability is exactly that number alone.

    >>> from jaxseg.metrics import iou
    >>> sweep = ThresholdSweep.zero(1, thresholds=4)
    >>> probabilities = jnp.array([0.1, 0.6, 0.5, 0.9]).reshape(1, 1, 4, 1)
    >>> sweep = sweep.update(labels=jnp.array([[[0, 1, 1, 1]]]), probabilities=probabilities)
    >>> [x.tolist() for x in best_threshold(iou, sweep)]
    [[0.25], [1.0]]

    References:
        Lipton, Elkan and Narayanaswamy, Thresholding Classifiers to Maximize F1 Score, 2014,
        https://arxiv.org/abs/1402.1892
    """
    values = score(sweep.confusion_counts())
    xp = exact_integers.namespace(values)
    best = xp.argmax(xp.where(xp.isnan(values), -xp.inf, values), 0)
    thresholds = xp.asarray(sweep.thresholds)
    return BestThreshold(thresholds[best], xp.take_along_axis(values, best[None], 0)[0])


@exact_integers.compiled
def _confusion_counts(limbs: exact_integers.Limbs) -> ConfusionCounts:
    xp = exact_integers.namespace(limbs)
    cumulative = exact_integers.reversed_cumulative(limbs, -2)
    fp, tp = (xp.swapaxes(cumulative[:, :, i], 0, 1) for i in range(2))
    fn, tn = (exact_integers.subtract(xp.broadcast_to(x[:1], x.shape), x) for x in (tp, fp))
    return ConfusionCounts(*(exact_integers.to_float(part) for part in (tp, fp, fn, tn)))


def _truth(
    labels: Array, probabilities: Array, ignore_index: Ignored, classes: int
) -> tuple[Array, Array]:
    """Which pixels have each class, 0 or 1, and which count: `[N, H, W, K]`, or `[N, H, W, 1]` where all are alike."""
    if probabilities.ndim != 4 or probabilities.shape[-1] != classes:
        raise InputError(
            f"probabilities {probabilities.shape} must be [N, H, W, K], K the {classes} classes of the sweep"
        )
    if not jnp.issubdtype(probabilities.dtype, jnp.floating):
        raise InputError(f"probabilities are floating, not {probabilities.dtype}")
    if labels.shape not in (probabilities.shape[:-1], probabilities.shape):
        raise InputError(
            f"labels {labels.shape} do not fit probabilities {probabilities.shape}: they are [N, H, W] or [N, H, W, K]"
        )
    labels = as_int32(labels, "labels")
    if labels.ndim == 4 or classes == 1:
        labels = labels.reshape(probabilities.shape)
        return (labels == 1).astype(jnp.int32), counted(labels, ignore_index, 2)
    of_class = labels[..., None] == jnp.arange(classes, dtype=jnp.int32)[(None,) * 3]
    valid = counted(labels, ignore_index, classes)[..., None]
    return of_class.astype(jnp.int32), jnp.broadcast_to(valid, of_class.shape)


def _ends(sweep: ThresholdSweep) -> np.ndarray:
    return np.append(sweep.thresholds, np.float32(np.inf))


def _of_bins(sweep: ThresholdSweep) -> tuple[Any, Any]:
    """Pixels without and with each class in each bin, `[B, K]` floats: the steps of both curves, not as differences."""
    counts = exact_integers.to_float(sweep.limbs)
    return counts[..., 0].T, counts[..., 1].T


def _with_end(parts: ConfusionCounts) -> ConfusionCounts:
    """ConfusionCounts at one more threshold, which no pixel passes."""
    xp = exact_integers.namespace(parts.tp)
    tp, fp, fn, tn = (part[:1] for part in parts)
    end = ConfusionCounts(xp.zeros_like(tp), xp.zeros_like(fp), tp + fn, fp + tn)
    return ConfusionCounts(*(xp.concatenate(pair) for pair in zip(parts, end, strict=True)))
