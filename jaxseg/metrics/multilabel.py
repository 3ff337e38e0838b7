"""Counts for classes that do not exclude each other: one table of two by two for each class."""

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
class MultilabelCounts:
    r"""Numbers of pixels that have each class and were predicted to, `[K, 2, 2]`: rows are the truth, no and yes.

    $C_{ctp}$ counts the pixels whose truth of class c is t and that were predicted as p; an absent class has zeros where t = 1.
    Counts are exact whatever their size, as those of `ConfusionMatrix`. Every score takes them; a pixel may be ignored
    for one class and count for another, so that the classes may count different numbers of pixels.

    Attributes:
        limbs: `[..., K, 2, 2, 3]` uint32; leading axes are those of several such counts, as returned by `per_image`.

    >>> counts = MultilabelCounts.zero(2)
    >>> labels, predictions = jnp.array([[[[1, 0], [1, 255]]]]), jnp.array([[[[1, 1], [0, 1]]]])
    >>> counts = counts.update(labels=labels, predictions=predictions)
    >>> counts.to_numpy().tolist()
    [[[0, 0], [1, 1]], [[0, 1], [0, 0]]]

    References:
        Tsoumakas and Katakis, Multi-Label Classification: An Overview, 2007, https://doi.org/10.4018/jdwm.2007070101
    """

    limbs: Array

    @classmethod
    def zero(cls, num_classes: int) -> "MultilabelCounts":
        """Counts of nothing.

        Args:
            num_classes: K.

        Raises:
            InputError: `num_classes` is below 1.
        """
        if num_classes < 1:
            raise InputError(f"num_classes is {num_classes}, there must be 1 or more")
        return cls(jnp.zeros((num_classes, 2, 2, 3), jnp.uint32))

    @classmethod
    def per_image(
        cls, *, labels: Array, predictions: Array, ignore_index: Ignored = 255
    ) -> "MultilabelCounts":
        """The counts of each image of this device's part of a batch, `[N, K, 2, 2]`, for scores of single images.

        Args:
            labels: `[N, H, W, K]`, any integer type: 0, 1 or `ignore_index`.
            predictions: `[N, H, W, K]`, any integer type: 0 or 1.
            ignore_index: The label of what is not counted, several, or None for none.

        Raises:
            InputError: For the same reasons as `update`.
        """
        counts = _tables(labels, predictions, ignore_index, per_image=True)
        return cls(exact_integers.from_counts(counts))

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.limbs.shape[-4]

    def update(
        self, *, labels: Array, predictions: Array, ignore_index: Ignored = 255
    ) -> "MultilabelCounts":
        """These counts and those of one more batch: the global one, whatever the parallel strategy.

        Args:
            labels: `[N, H, W, K]`, any integer type, the truth: 0, 1 or `ignore_index`.
            predictions: `[N, H, W, K]`, any integer type, 0 or 1, such as those returned by `multilabel_from_logits`.
            ignore_index: The label of what is not counted, several such labels, or None for none.

        Returns:
            New counts. A label or a prediction that is neither 0 nor 1 is not counted.

        Raises:
            InputError: Shapes do not fit, or a type is not an integer's.
        """
        if self.limbs.ndim != 4:
            raise InputError(
                f"counts {self.limbs.shape[:-1]} are of single images: only [K, 2, 2] counts are updated"
            )
        counts = _tables(labels, predictions, ignore_index)
        if counts.shape[1] != self.num_classes:
            raise InputError(
                f"labels {labels.shape} are of {counts.shape[1]} classes, the counts of {self.num_classes}"
            )
        return self + MultilabelCounts(exact_integers.sum_over_devices(counts))

    def __add__(self, other: "MultilabelCounts") -> "MultilabelCounts":
        """The counts of both.

        Raises:
            InputError: They are of different numbers of classes.
        """
        if self.limbs.shape != other.limbs.shape:
            raise InputError(
                f"counts {self.limbs.shape[:-1]} cannot be added to {other.limbs.shape[:-1]}"
            )
        return MultilabelCounts(exact_integers.add(self.limbs, other.limbs))

    def to_float(self) -> Array:
        """The counts as `[K, 2, 2]` floats on the device, rounded to float32, or to float64 under x64."""
        return exact_integers.to_float(self.limbs)

    def to_numpy(self) -> np.ndarray:
        """The counts as `[K, 2, 2]` int64 on the host.

        Raises:
            OverflowError: A count is 2**63 or more.
        """
        return exact_integers.to_numpy(self.limbs)


def _tables(
    labels: Array, predictions: Array, ignore_index: Ignored, *, per_image: bool = False
) -> Array:
    """`[G, K, 2, 2]` uint32: the table of each class, in each image or in all of them."""
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    if labels.ndim != 4 or labels.shape != predictions.shape:
        raise InputError(
            f"labels {labels.shape} and predictions {predictions.shape} must both be [N, H, W, K]"
        )
    labels = as_int32(labels, "labels")
    predictions = as_int32(predictions, "predictions")
    valid = counted(labels, ignore_index, 2) & (predictions >= 0) & (predictions < 2)
    classes = labels.shape[-1]
    place = jnp.arange(classes, dtype=jnp.int32)[(None,) * 3]
    cells = jnp.where(valid, 4 * place + 2 * labels + predictions, 4 * classes)
    return histogram(cells, 4 * classes, per_image=per_image).reshape(-1, classes, 2, 2)
