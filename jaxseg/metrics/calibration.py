r"""Whether probabilities mean what they say: what calibration errors, Brier score and likelihood need, in one pass.

Of each pixel that counts, with probabilities $p_k$ (the softmax of its logits; for one sigmoid $1 - p$ and $p$) and truth
y:

| quantity | of a pixel |
|---|---|
| confidence | $\max_k p_k$ |
| Brier score | $\sum_k (p_k - [k = y])^2$, from 0 to 2 |
| negative log-likelihood | $-\log p_y$ |

and of each class its own probability, summed over all pixels in bins of it.

Sums of them would lose digits in float32 after some thousand pixels. So each value is rounded to a multiple of $2^{-24}$
and summed as a whole number: exact and the same in every order, on every number of devices, over any number of pixels.

A sigmoid gives the same numbers as the softmax over the two logits 0 and z.
"""

import flax.struct
import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.metrics import exact_integers
from jaxseg.metrics.histogram import bin_of, histogram
from jaxseg.metrics.predictions import as_int32, counted, widened
from jaxseg.metrics.probability_sums import sums_by_bin
from jaxseg.typing import Array

_LARGEST = 65_535.0  # two bytes before the point


@flax.struct.dataclass
class Calibration:
    r"""Sums over pixels that calibration errors, reliability diagram, Brier score and likelihood are made of.

    All are `[..., 3]` uint32 limbs of whole numbers; those of values count multiples of $2^{-24}$.

    Attributes:
        bins: `[B, 2, 3]`: how many pixels have a confidence in each bin, wrong and right ones.
        confidence: `[B, 3]`: the sum of the confidences in each bin.
        class_truth: `[K, B, 3]`: how many pixels of each class have a probability of that class in each bin.
        class_probability: `[K, B, 3]`: the sum over all pixels of the probabilities of each class in each bin.
        pixels: `[K, 3]`: how many pixels each true class has.
        brier: `[K, 3]`: the sum of their Brier scores.
        nll: `[K, 3]`: the sum of their negative log-likelihoods.
        infinite: `[K, 3]`: how many of them have an infinite one, or one above 65,535.
        broken: `[3]`: how many pixels have logits whose probabilities are not numbers.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.2], [0.6, 0.4]]]]))
    >>> calibration = Calibration.zero(2).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> from jaxseg.metrics import brier_score, expected_calibration_error
    >>> print(f"{expected_calibration_error(calibration):.4f} {brier_score(calibration):.4f}")
    0.4000 0.4000

    Ignored pixels are in no sum, and a class that is absent from the truth has no score of its own.

    References:
        Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599
    """

    bins: Array
    confidence: Array
    class_truth: Array
    class_probability: Array
    pixels: Array
    brier: Array
    nll: Array
    infinite: Array
    broken: Array

    @classmethod
    def zero(cls, num_classes: int, *, bins: int = 15) -> "Calibration":
        """Sums over no pixel.

        Args:
            num_classes: K of the logits; 1 stands for one sigmoid, with two classes.
            bins: B, bins of equal width for confidences and for probabilities: $b/B \\le p < (b + 1)/B$, the last one with 1.

        Raises:
            InputError: There is no class or no bin.
        """
        if num_classes < 1 or bins < 1:
            raise InputError(
                f"{num_classes} classes and {bins} bins: there must be 1 or more of both"
            )
        classes = max(num_classes, 2)
        shapes = [(bins, 2), (bins,), *[(classes, bins)] * 2, *[(classes,)] * 4, ()]
        return cls(*(jnp.zeros((*shape, 3), jnp.uint32) for shape in shapes))

    def update(self, *, logits: Array, labels: Array, ignore_index: Ignored = 255) -> "Calibration":
        """These sums and those of one more batch: the global one, whatever the parallel strategy.

        Args:
            logits: `[N, H, W, K]`, any floating type; of averaged probabilities (several models, flips, tiles) their
                logarithms, which are logits of them.
            labels: `[N, H, W]`, any integer type: `0..max(K, 2)-1` or ignored.
            ignore_index: The label of pixels that are not counted, several such labels, or None for none.

        Returns:
            New sums. A label that is no class is not counted.

        Raises:
            InputError: Shapes or types do not fit.
        """
        labels = jnp.asarray(labels)
        classes, bins = self.pixels.shape[0], self.bins.shape[0]
        if logits.ndim != 4 or max(logits.shape[-1], 2) != classes:
            raise InputError(
                f"logits {logits.shape} must be [N, H, W, K], K the {classes} classes of the sums"
            )
        if labels.shape != logits.shape[:-1] or not jnp.issubdtype(logits.dtype, jnp.floating):
            raise InputError(
                f"logits {logits.shape} {logits.dtype} and labels {labels.shape} do not fit: [N, H, W, K] floating and "
                "[N, H, W]"
            )
        labels = as_int32(labels, "labels")
        valid = counted(labels, ignore_index, classes)
        safe = jnp.where(valid, labels, 0)
        probabilities, right, brier, nll = _values(logits, safe)
        broken = valid & jnp.isnan(brier)
        valid &= ~broken
        infinite = valid & ~(nll <= _LARGEST)
        confidence = probabilities.max(-1)
        place = bin_of(confidence, bins)
        of_class, of_bin = jnp.where(valid, labels, classes), jnp.where(valid, place, bins)

        def number(cells: Array, size: int) -> Array:
            return exact_integers.sum_over_devices(histogram(cells, size))

        pairs = jnp.where(valid, place * 2 + right.astype(jnp.int32), 2 * bins)
        of_truth = jnp.take_along_axis(probabilities, safe[..., None], -1)[..., 0]
        truths = jnp.where(valid, safe * bins + bin_of(of_truth, bins), classes * bins)
        added = Calibration(
            bins=number(pairs, 2 * bins).reshape(bins, 2, 3),
            confidence=_sum(confidence, of_bin, bins),
            class_truth=number(truths, classes * bins).reshape(classes, bins, 3),
            class_probability=sums_by_bin(probabilities, valid, bins),
            pixels=number(of_class, classes),
            brier=_sum(brier, of_class, classes),
            nll=_sum(nll, jnp.where(infinite, classes, of_class), classes, whole_bytes=2),
            infinite=number(jnp.where(infinite, labels, classes), classes),
            broken=number(jnp.where(broken, 0, 1), 1)[0],
        )
        return self + added

    def __add__(self, other: "Calibration") -> "Calibration":
        """The sums of both.

        Raises:
            InputError: They are of different numbers of classes or bins.
        """
        shapes = [(x.bins.shape[0], x.pixels.shape[0]) for x in (self, other)]
        if shapes[0] != shapes[1]:
            raise InputError(f"sums of (bins, classes) {shapes[0]} cannot be added to {shapes[1]}")
        return jax.tree.map(exact_integers.add, self, other)


def _values(logits: Array, labels: Array) -> tuple[Array, Array, Array, Array]:
    """Probabilities `[N, H, W, K]`; of each pixel whether the most probable is right, Brier score and likelihood."""
    logits = widened(logits)
    if logits.shape[-1] == 1:
        positive = logits[..., 0] > 0
        towards = jnp.where(labels == 1, logits[..., 0], -logits[..., 0])
        wrong = jax.nn.sigmoid(-towards)
        p = jax.nn.sigmoid(jnp.concatenate([-logits, logits], -1))
        return p, positive == (labels == 1), 2 * wrong * wrong, jax.nn.softplus(-towards)
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=p.dtype)
    nll = -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    brier = jnp.square(p - truth).sum(-1)
    return p, jnp.argmax(logits, -1).astype(labels.dtype) == labels, brier, nll


def _sum(values: Array, cells: Array, size: int, *, whole_bytes: int = 1) -> exact_integers.Limbs:
    """The sum of the values in each cell, `[size, 3]`, in multiples of 2**-24: exactly, byte by byte."""
    values = jnp.where(cells == size, 0, values)
    whole = jnp.floor(values)
    fraction = jnp.round((values - whole) * 2.0**exact_integers.BITS).astype(jnp.uint32)
    whole = whole.astype(jnp.uint32) + (fraction >> exact_integers.BITS)
    parts = [whole >> 8 * i & 255 for i in reversed(range(whole_bytes))]
    parts += [fraction >> 8 * i & 255 for i in reversed(range(3))]
    total = jnp.zeros((size, 3), jnp.uint32)
    for part in parts:
        new = exact_integers.sum_over_devices(histogram(cells, size, weights=part))
        total = exact_integers.add(exact_integers.carry(total << 8), new)
    return total
