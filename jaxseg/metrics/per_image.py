r"""Means over images of the scores of single images: different numbers, each of which someone calls IoU or Dice.

With $s_{ic}$ the score of class c in image i, NaN where it is absent there (0 / 0), and means over numbers only:

| function | is | reported by |
|---|---|---|
| `class_means` | $\bar s_c = \mathrm{mean}_i\, s_{ic}$ | nnU-Net, of each class; torchmetrics' `segmentation.MeanIoU(per_class=True)` |
| `macro_imagewise` | $\mathrm{mean}_c\, \bar s_c$ | smp, `"macro-imagewise"`; nnU-Net, as `foreground_per_case` |
| `weighted_imagewise` | $\sum_c w_c \bar s_c / \sum_c w_c$ | smp, `"weighted-imagewise"`, there divided by K once more |
| `mean_of_image_means` | $\mathrm{mean}_i\, \mathrm{mean}_c\, s_{ic}$ | MONAI, `MeanIoU` and `DiceMetric`; torchmetrics' functional `mean_iou`, averaged |
| `mean_of_pairs` | the mean over all $(i, c)$ that are numbers | torchmetrics' `segmentation.MeanIoU` |
| `micro_imagewise` | $\mathrm{mean}_i$ of the score of all classes together | smp, `"micro-imagewise"` |

None of them is the mIoU of papers on street scenes or objects, which sums one confusion matrix over the data set. An
image without pixels that count is not part of any mean: padding changes nothing. How peers treat absent classes differs:
smp writes 1 for them unless told otherwise, MONAI leaves out every class without truth, predicted or not, and nnU-Net and
torchmetrics leave them out as here.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.metrics.confusion_counts import Counts, confusion_counts
from jaxseg.metrics.scores import Score, ScoreFn, macro, mean_of_numbers, micro, ratio
from jaxseg.typing import Array


@flax.struct.dataclass
class RunningMean:
    r"""The mean over images of values of single images, $\sum_i v_i / n$: a pytree for a pass over a data set.

    Values that are NaN, as of absent classes and of images that are ignored altogether, are left out. Rounding errors do not add up: what a sum has lost is kept beside it.

    Attributes:
        sums: `[2, ...]`: the sum of the values that are numbers, and what its rounding has lost (Knuth's two-sum).
        numbers: `[...]` int32: how many there were.

    >>> mean = RunningMean.zero().update(jnp.array([0.5, jnp.nan, 1.0]))
    >>> float(mean.value)
    0.75

    References:
        Ogita, Rump and Oishi, Accurate Sum and Dot Product, 2005, https://doi.org/10.1137/030601818
    """

    sums: Array
    numbers: Array

    @classmethod
    def zero(cls, shape: tuple[int, ...] = ()) -> "RunningMean":
        """The mean of nothing.

        Args:
            shape: That of an image's values: `()` for one number an image, `(K,)` for one of each class.
        """
        return cls(jnp.zeros((2, *shape)), jnp.zeros(shape, jnp.int32))

    def update(self, values: Score) -> "RunningMean":
        """The mean of these images too: those of all devices, whatever the parallel strategy.

        Args:
            values: `[N, ...]`, floating, one row for each image, of scores or of distances.

        Raises:
            InputError: The values of an image are of another shape than those before.
        """
        values = jnp.asarray(values)
        if values.shape[1:] != self.numbers.shape:
            raise InputError(
                f"values {values.shape} do not fit: they must be [N] and {self.numbers.shape} for an image"
            )
        present = ~jnp.isnan(values)
        values = jnp.where(present, values, 0).astype(self.sums.dtype)
        added, numbers = collective.psum(
            (values.sum(0), present.astype(jnp.int32).sum(0, dtype=jnp.int32))
        )
        return self + RunningMean(jnp.stack([added, jnp.zeros_like(added)]), numbers)

    def __add__(self, other: "RunningMean") -> "RunningMean":
        """The mean of the images of both."""
        if self.numbers.shape != other.numbers.shape:
            raise InputError(
                f"a mean of values {self.numbers.shape} cannot be added to one of {other.numbers.shape}"
            )
        (a, low_a), (b, low_b) = self.sums, other.sums
        rounded = a + b
        part = rounded - a
        lost = (a - (rounded - part)) + (b - part) + (low_a + low_b)
        finite = jnp.isfinite(rounded)
        high = jnp.where(finite, rounded + lost, rounded)
        low = jnp.where(finite, lost - (high - rounded), 0)
        return RunningMean(jnp.stack([high, low]), self.numbers + other.numbers)

    @property
    def total(self) -> Array:
        """The sum of the values, `[...]`."""
        return self.sums[0] + self.sums[1]

    @property
    def value(self) -> Array:
        """The mean, `[...]`; NaN where there was no value."""
        return ratio(self.total, self.numbers.astype(self.sums.dtype))


@flax.struct.dataclass
class ImageMeans:
    r"""One score $s_{ic}$ of every image and class of a data set, in the three forms that the means of this file are made of.

    An absent class has no score in an image, and an image whose pixels are all ignored has none at all.

    Attributes:
        classes: `[K]`, the score of each class.
        macro: The mean over the classes of an image.
        micro: The score of all classes of an image together.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 0, 1]], [[0, 0, 0, 0]]]), jnp.zeros((2, 1, 4), jnp.int32)
    >>> counts = ConfusionMatrix.per_image(2, labels=labels, predictions=predictions)
    >>> means = ImageMeans.zero(2).update(iou, counts)
    >>> class_means(means).tolist()
    [0.875, 0.0]

    References:
        Csurka, Larlus and Perronnin, What is a good evaluation measure for semantic segmentation?, 2013,
        https://doi.org/10.5244/C.27.32 (on scores of images beside those of a data set).
    """

    classes: RunningMean
    macro: RunningMean
    micro: RunningMean

    @classmethod
    def zero(cls, num_classes: int) -> "ImageMeans":
        """Means over no image, of scores `[num_classes]`: 2 for one sigmoid."""
        return cls(RunningMean.zero((num_classes,)), RunningMean.zero(), RunningMean.zero())

    def update(self, score: ScoreFn, counts: Counts) -> "ImageMeans":
        """The means over these images too: those of all devices, whatever the parallel strategy.

        Args:
            score: Such as `iou`, always the same.
            counts: `[N, ...]` counts of single images, returned by `ConfusionMatrix.per_image`.

        Raises:
            InputError: The counts have no axis of images, or are of another number of classes.
        """
        parts = confusion_counts(counts)
        if parts.tp.ndim != 2:
            raise InputError(
                f"counts of {parts.tp.shape} classes are not those of single images, [N, K]: see per_image"
            )
        return ImageMeans(
            self.classes.update(score(parts)),
            self.macro.update(macro(score, parts)),
            self.micro.update(micro(score, parts)),
        )

    def __add__(self, other: "ImageMeans") -> "ImageMeans":
        """The means over the images of both."""
        return ImageMeans(
            self.classes + other.classes, self.macro + other.macro, self.micro + other.micro
        )


def class_means(means: ImageMeans) -> Array:
    r"""The mean over images of the score of each class, $\bar s_c = \mathrm{mean}_i\, s_{ic}$, where it is not absent.

    Args:
        means: Of any number of images; ignored pixels are in none of their scores.

    Returns:
        `[K]`; NaN for classes that are in no image. nnU-Net's `mean` of its `summary.json`; torchmetrics'
        `segmentation.MeanIoU(per_class=True)`, which says -1 instead.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> counts = ConfusionMatrix.per_image(3, labels=labels, predictions=predictions)
    >>> class_means(ImageMeans.zero(3).update(iou, counts)).tolist()
    [0.75, 0.5, nan]

    References:
        Isensee, Jaeger, Kohl, Petersen and Maier-Hein, nnU-Net: a self-configuring method for deep learning-based
        biomedical image segmentation, 2021, https://doi.org/10.1038/s41592-020-01008-z
    """
    return means.classes.value


def macro_imagewise(means: ImageMeans) -> Array:
    r"""The mean over classes of `class_means`, $\mathrm{mean}_c\, \bar s_c$: smp's `"macro-imagewise"` without its 1 if absent.

    Args:
        means: Of any number of images; ignored pixels are in none of their scores.

    Returns:
        A scalar; classes that are in no image are left out.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> counts = ConfusionMatrix.per_image(3, labels=labels, predictions=predictions)
    >>> float(macro_imagewise(ImageMeans.zero(3).update(iou, counts)))
    0.625

    References:
        segmentation_models.pytorch, https://smp.readthedocs.io/en/latest/metrics.html
    """
    return mean_of_numbers(means.classes.value)


def weighted_imagewise(means: ImageMeans, class_weights: Sequence[float] | Array | Any) -> Array:
    r"""The weighted mean over classes of `class_means`, $\sum_c w_c \bar s_c / \sum_c w_c$.

    Args:
        means: Of any number of images; ignored pixels are in none of their scores.
        class_weights: `[K]`, not negative; they need not sum to 1. Those of absent classes are left out.

    Returns:
        A scalar.

    Raises:
        InputError: There is not one weight for each class.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> counts = ConfusionMatrix.per_image(3, labels=labels, predictions=predictions)
    >>> float(weighted_imagewise(ImageMeans.zero(3).update(iou, counts), [3.0, 1.0, 1.0]))
    0.6875

    References:
        segmentation_models.pytorch, https://smp.readthedocs.io/en/latest/metrics.html: its
        `"weighted-imagewise"` is 1/K of this.
    """
    if np.shape(class_weights) != means.classes.numbers.shape:
        raise InputError(
            f"class_weights have shape {np.shape(class_weights)}, the classes {means.classes.numbers.shape}"
        )
    return mean_of_numbers(
        means.classes.value, jnp.asarray(class_weights, means.classes.sums.dtype)
    )


def foreground_per_case(means: ImageMeans) -> Array:
    r"""The mean over classes of `class_means` without the background, $\mathrm{mean}_{c > 0}\, \bar s_c$.

    It is nnU-Net's `foreground_mean`, where the score is Dice and an image a case. A class that is absent, neither in truth
    nor in prediction of a case, has no score in it.

    Args:
        means: Of any number of images; ignored pixels are in none of their scores.

    Returns:
        A scalar.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> counts = ConfusionMatrix.per_image(3, labels=labels, predictions=predictions)
    >>> float(foreground_per_case(ImageMeans.zero(3).update(iou, counts)))
    0.5

    References:
        Isensee, Jaeger, Kohl, Petersen and Maier-Hein, nnU-Net: a self-configuring method for deep learning-based
        biomedical image segmentation, 2021, https://doi.org/10.1038/s41592-020-01008-z
    """
    return mean_of_numbers(means.classes.value[1:])


def mean_of_image_means(means: ImageMeans) -> Array:
    r"""The mean over images of each image's mean over its classes, $\mathrm{mean}_i\, \mathrm{mean}_c\, s_{ic}$.

    It is MONAI's `reduction="mean"`, which leaves out classes without truth in an image even where they were predicted; here
    such a class scores 0, and only an absent one is left out.

    Args:
        means: Of any number of images; ignored pixels are in none of their scores.

    Returns:
        A scalar.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> counts = ConfusionMatrix.per_image(3, labels=labels, predictions=predictions)
    >>> float(mean_of_image_means(ImageMeans.zero(3).update(iou, counts)))
    0.75

    References:
        MONAI, https://docs.monai.io/en/stable/metrics.html
    """
    return means.macro.value


def mean_of_pairs(means: ImageMeans) -> Array:
    r"""The mean of all $s_{ic}$, of every class in every image where it is not absent: torchmetrics' `segmentation.MeanIoU`.

    An image counts as often as it has classes, a class as often as it is in an image.

    Args:
        means: Of any number of images; ignored pixels are in none of their scores.

    Returns:
        A scalar.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> counts = ConfusionMatrix.per_image(3, labels=labels, predictions=predictions)
    >>> print(mean_of_pairs(ImageMeans.zero(3).update(iou, counts)).round(4))
    0.6667

    References:
        torchmetrics, https://lightning.ai/docs/torchmetrics/stable/segmentation/mean_iou.html
    """
    return ratio(
        means.classes.total.sum(), means.classes.numbers.sum().astype(means.classes.sums.dtype)
    )


def micro_imagewise(means: ImageMeans) -> Array:
    r"""The mean over images i of the score of all classes of $i$ together, absent ones adding nothing: `"micro-imagewise"`.

    Args:
        means: Of any number of images; ignored pixels are in none of their scores.

    Returns:
        A scalar.

    >>> from jaxseg.metrics import ConfusionMatrix, iou
    >>> labels, predictions = jnp.array([[[0, 0, 1]], [[0, 0, 0]]]), jnp.array([[[0, 1, 1]], [[0, 0, 0]]])
    >>> counts = ConfusionMatrix.per_image(3, labels=labels, predictions=predictions)
    >>> float(micro_imagewise(ImageMeans.zero(3).update(iou, counts)))
    0.75

    References:
        segmentation_models.pytorch, https://smp.readthedocs.io/en/latest/metrics.html
    """
    return means.micro.value
