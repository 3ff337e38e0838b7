"""Counts of true against predicted classes: a pytree that stays on the device and never loses a pixel."""

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.metrics import exact_integers
from jaxseg.metrics.histogram import histogram
from jaxseg.metrics.predictions import as_int32, counted
from jaxseg.typing import Array


@flax.struct.dataclass
class ConfusionMatrix:
    r"""Numbers of pixels of each class that were predicted as each class, `[K, K]`: rows are the truth.

    $C_{tp}$ counts the pixels of class t that were predicted as p. Ignored pixels are counted nowhere, and an absent class is a
    row and a column of zeros. Counts are exact whatever their size: see `jaxseg.metrics.exact_integers`.

    Attributes:
        limbs: `[..., K, K, 3]` uint32, least significant first; a count is $\sum_i 2^{24 i}\, l_i$. Leading axes are
            those of several matrices, such as those returned by `per_image`; every score has them too.

    >>> counts = ConfusionMatrix.zero(2)
    >>> counts = counts.update(labels=jnp.array([[[0, 1, 255]]]), predictions=jnp.array([[[1, 1, 0]]]))
    >>> (counts + counts).to_numpy().tolist()
    [[0, 2], [0, 2]]

    References:
        Stehman, Selecting and Interpreting Measures of Thematic Classification Accuracy, 1997,
        https://doi.org/10.1016/S0034-4257(97)00083-7
    """

    limbs: Array

    @classmethod
    def zero(cls, num_classes: int) -> "ConfusionMatrix":
        """Counts of nothing.

        Args:
            num_classes: K of the logits; 1 stands for one sigmoid, whose labels 0 and 1 make `[2, 2]`.

        Raises:
            InputError: `num_classes` is below 1.
        """
        size = _size(num_classes)
        return cls(jnp.zeros((size, size, 3), jnp.uint32))

    @classmethod
    def per_image(
        cls, num_classes: int, *, labels: Array, predictions: Array, ignore_index: Ignored = 255
    ) -> "ConfusionMatrix":
        """The counts of each image of this device's part of a batch, for scores of single images.

        Args:
            num_classes: K of the logits, as for `zero`.
            labels: `[N, H, W]`, any integer type, the truth.
            predictions: `[N, H, W]`, any integer type, class ids.
            ignore_index: The label of pixels that are not counted, several, or None for none.

        Returns:
            Counts `[N, K, K]`: 12 N K K bytes, or 4 where only a score is computed from them under jit.

        Raises:
            InputError: For the same reasons as `update`.

        >>> labels, predictions = jnp.array([[[0, 1]], [[1, 1]]]), jnp.array([[[0, 1]], [[0, 1]]])
        >>> counts = ConfusionMatrix.per_image(2, labels=labels, predictions=predictions)
        >>> counts.to_numpy().tolist()
        [[[1, 0], [0, 1]], [[0, 0], [1, 1]]]
        """
        size = _size(num_classes)
        cells = _cells(labels, predictions, ignore_index, size)
        counts = histogram(cells, size * size, per_image=True)
        return cls(exact_integers.from_counts(counts.reshape(-1, size, size)))

    @property
    def num_classes(self) -> int:
        """The number of classes: K, or 2 for one sigmoid."""
        return self.limbs.shape[-2]

    def update(
        self, *, labels: Array, predictions: Array, ignore_index: Ignored = 255
    ) -> "ConfusionMatrix":
        """These counts and those of one more batch: the global one, whatever the parallel strategy.

        Args:
            labels: `[N, H, W]`, any integer type, the truth.
            predictions: `[N, H, W]`, any integer type, class ids, such as those returned by `labels_from_logits`.
            ignore_index: The label of pixels that are not counted, several such labels, or None for none.

        Returns:
            New counts. A label or a prediction that is no class is not counted anywhere: values can be checked on the
            host only, which the loaders and the command line do.

        Raises:
            InputError: Shapes do not fit, or a type is not an integer's.
        """
        if self.limbs.ndim != 3:
            raise InputError(
                f"counts {self.limbs.shape[:-1]} are of single images: only [K, K] counts are updated"
            )
        size = self.num_classes
        counts = histogram(_cells(labels, predictions, ignore_index, size), size * size)
        return self + ConfusionMatrix(
            exact_integers.sum_over_devices(counts.reshape(-1, size, size))
        )

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """The counts of both.

        Raises:
            InputError: They are of different numbers of classes.
        """
        if self.limbs.shape != other.limbs.shape:
            raise InputError(
                f"counts of {self.num_classes} classes cannot be added to counts of {other.num_classes}"
                if self.num_classes != other.num_classes
                else f"counts {self.limbs.shape[:-1]} cannot be added to {other.limbs.shape[:-1]}"
            )
        return ConfusionMatrix(exact_integers.add(self.limbs, other.limbs))

    def merge(self, table: Sequence[int]) -> "ConfusionMatrix":
        """The counts of fewer classes: what counting merged labels and predictions gives, exactly.

        Args:
            table: The new class of each of the K classes, each of `0..max(table)` at least once.

        Returns:
            `[J, J]` counts of `J = max(table) + 1` classes. To leave pixels out, map their labels to an ignored one
            before they are counted: `map_labels`.

        Raises:
            InputError: The table is not one new class for each class, or skips one.

        >>> counts = ConfusionMatrix.zero(3)
        >>> counts = counts.update(labels=jnp.array([[[0, 1, 2, 2]]]), predictions=jnp.array([[[0, 2, 1, 0]]]))
        >>> counts.merge((0, 1, 1)).to_numpy().tolist()
        [[1, 0], [1, 2]]
        """
        target = np.asarray(table)
        found = set(target.tolist()) if target.dtype.kind in "iu" else set()
        if target.shape != (self.num_classes,) or found != set(range(len(found))) or not found:
            raise InputError(
                f"table {target.tolist()} must name a new class for each of {self.num_classes}, and each of "
                "0, 1, ... at least once"
            )
        limbs = self.limbs
        for axis in (-3, -2):
            sums = exact_integers.group_totals(jnp.moveaxis(limbs, axis, 0), target, len(found))
            limbs = jnp.moveaxis(sums, 0, axis)
        return ConfusionMatrix(limbs)

    def to_float(self) -> Array:
        """The counts as `[K, K]` floats on the device, rounded to float32, or to float64 under x64."""
        return exact_integers.to_float(self.limbs)

    def to_numpy(self) -> np.ndarray:
        """The counts as `[K, K]` int64 on the host.

        Raises:
            OverflowError: A count is 2**63 or more.
        """
        return exact_integers.to_numpy(self.limbs)


def _size(num_classes: int) -> int:
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}, there must be 1 or more")
    return max(num_classes, 2)


def _cells(labels: Array, predictions: Array, ignore_index: Ignored, size: int) -> Array:
    """The place in `[K * K]` counts of each pixel, K * K where it is not counted."""
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    if labels.ndim != 3 or labels.shape != predictions.shape:
        raise InputError(
            f"labels {labels.shape} and predictions {predictions.shape} must both be [N, H, W]"
        )
    labels = as_int32(labels, "labels")
    predictions = as_int32(predictions, "predictions")
    valid = counted(labels, ignore_index, size) & (predictions >= 0) & (predictions < size)
    return jnp.where(valid, labels * size + predictions, size * size)
