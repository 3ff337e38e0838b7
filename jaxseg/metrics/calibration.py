r"""Whether probabilities mean what they say: calibration error, Brier score and likelihood in one pass.

Of each pixel that counts, with probabilities $p_k$ (the softmax of its logits; for one sigmoid $1 - p$ and $p$) and truth
y:

| quantity | of a pixel |
|---|---|
| confidence | $\max_k p_k$ |
| Brier score | $\sum_k (p_k - [k = y])^2$, from 0 to 2 |
| negative log-likelihood | $-\log p_y$ |

Sums of them would lose digits in float32 after some thousand pixels. So each value is rounded to a multiple of $2^{-24}$
and summed as a whole number: exact and the same in every order, on every number of devices, over any number of pixels.

A sigmoid gives the same numbers as the softmax over the two logits 0 and z.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.metrics import integers
from jaxseg.metrics.histogram import bin_of, histogram
from jaxseg.metrics.label_values import Ignored, as_int32, counted, widened
from jaxseg.metrics.scores import ratio, sum_in_pairs
from jaxseg.typing import Array

_LARGEST = 65_535.0  # two bytes before the point


@flax.struct.dataclass
class Calibration:
    r"""Sums over pixels that calibration error, reliability diagram, Brier score and likelihood are made of.

    All are `[..., 3]` uint32 limbs of whole numbers; those of values count multiples of $2^{-24}$.

    Attributes:
        bins: `[B, 2, 3]`: how many pixels have a confidence in each bin, wrong and right ones.
        confidence: `[B, 3]`: the sum of the confidences in each bin.
        pixels: `[K, 3]`: how many pixels each true class has.
        brier: `[K, 3]`: the sum of their Brier scores.
        nll: `[K, 3]`: the sum of their negative log-likelihoods.
        infinite: `[K, 3]`: how many of them have an infinite one, or one above 65,535.
        broken: `[3]`: how many pixels have logits whose probabilities are not numbers.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.2], [0.6, 0.4]]]]))
    >>> calibration = Calibration.zero(2).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(f"{expected_calibration_error(calibration):.4f} {brier_score(calibration):.4f}")
    0.4000 0.4000

    Ignored pixels are in no sum, and a class that is absent from the truth has no score of its own.

    References:
        Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599
    """

    bins: Array
    confidence: Array
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
            bins: B, bins of equal width for the confidence: $b/B \\le p < (b + 1)/B$, the last one with 1.

        Raises:
            InputError: There is no class or no bin.
        """
        if num_classes < 1 or bins < 1:
            raise InputError(
                f"{num_classes} classes and {bins} bins: there must be 1 or more of both"
            )
        shapes = [(bins, 2), (bins,), *[(max(num_classes, 2),)] * 4, ()]
        return cls(*(jnp.zeros((*shape, 3), jnp.uint32) for shape in shapes))

    def update(self, *, logits: Array, labels: Array, ignore_index: Ignored = 255) -> "Calibration":
        """These sums and those of one more batch: the global one, whatever the parallel strategy.

        Args:
            logits: `[N, H, W, K]`, any floating type; of averaged probabilities (several models, flips, tiles) their
                logarithms, which are logits of them.
            labels: `[N, H, W]`, any integer type: `0..max(K, 2)-1` or ignored.
            ignore_index: The label of pixels that are not counted, or several such labels.

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
        confidence, right, brier, nll = _values(logits, jnp.where(valid, labels, 0))
        broken = valid & jnp.isnan(brier)
        valid &= ~broken
        infinite = valid & ~(nll <= _LARGEST)
        place = bin_of(confidence, bins)
        of_class, of_bin = jnp.where(valid, labels, classes), jnp.where(valid, place, bins)

        def number(cells: Array, size: int) -> Array:
            return integers.sum_over_devices(histogram(cells, size))

        pairs = jnp.where(valid, place * 2 + right.astype(jnp.int32), 2 * bins)
        added = Calibration(
            bins=number(pairs, 2 * bins).reshape(bins, 2, 3),
            confidence=_sum(confidence, of_bin, bins),
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
        return jax.tree.map(integers.add, self, other)


class Reliability(NamedTuple):
    r"""The reliability diagram: how often pixels of some confidence are right, $\mathrm{acc}_b$ over $\mathrm{conf}_b$.

    Ignored pixels are in no bin.

    Attributes:
        edges: `[B + 1]`: where the bins begin and end.
        confidence: `[B]`: the mean confidence of each bin, not-a-number without pixels.
        accuracy: `[B]`: the share of right pixels of each bin, not-a-number without pixels.
        pixels: `[B]`: how many pixels each bin has, floating.

    >>> reliability(Calibration.zero(2, bins=4)).edges.tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    edges: np.ndarray
    confidence: Any
    accuracy: Any
    pixels: Any


def reliability(calibration: Calibration) -> Reliability:
    r"""The reliability diagram's data: of each bin b the shares $\mathrm{acc}_b$ and the mean confidences $\mathrm{conf}_b$.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        Bins `[B]`; not-a-number for those that are absent, without pixels.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(reliability(calibration).accuracy[-6:])
    [ 0. nan nan  1. nan nan]

    References:
        DeGroot and Fienberg, The Comparison and Evaluation of Forecasters, 1983, https://doi.org/10.2307/2987588
    """
    edges = np.linspace(0, 1, calibration.bins.shape[0] + 1)
    return Reliability(edges, *_of_bins(calibration))


@integers.compiled
def _of_bins(calibration: Calibration) -> tuple[Any, Any, Any]:
    wrong, right = (calibration.bins[:, i] for i in range(2))
    pixels = _checked(calibration, integers.to_float(integers.add(wrong, right)))
    confidence = ratio(_value(calibration.confidence), pixels)
    return confidence, ratio(integers.to_float(right), pixels), pixels


@integers.compiled
def expected_calibration_error(calibration: Calibration) -> Any:
    r"""The expected calibration error: how far confidence and accuracy are apart, over bins of equal width.

    $$ \mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right| $$

    Equal to torchmetrics' `multiclass_calibration_error(norm="l1")` except where confidences are exactly 1: those have a
    bin of their own there. torchmetrics' *binary* error is another quantity: it bins the probability of class 1 instead
    of the confidence in the predicted class, over `[0, 1]` instead of `[0.5, 1]`.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        A scalar; not-a-number without pixels; bins that are absent add nothing.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(f"{expected_calibration_error(calibration):.4f}")
    0.4000

    References:
        Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017,
        https://arxiv.org/abs/1706.04599. There bins contain their upper edges, here their lower ones.
    """
    wrong, right = (calibration.bins[:, i] for i in range(2))
    pixels = integers.to_float(integers.total(integers.add(wrong, right), -1))
    # A right pixel counts one, a confidence in multiples of 2**-24: both in the latter, the difference is exact.
    hits, confidence = (
        integers.digits(x) for x in (integers.times_unit(right), calibration.confidence)
    )
    gaps = integers.scaled(integers.difference(hits, confidence)[1]) * 2.0 ** (64 - integers.BITS)
    return _checked(calibration, ratio(sum_in_pairs(gaps), pixels))


@integers.compiled
def brier_score(calibration: Calibration) -> Any:
    r"""The Brier score: the mean over pixels of $\sum_k (p_k - [k = y])^2$.

    It is summed over classes, as by Brier, and lies in `[0, 2]`; for one sigmoid it is $2 (p - y)^2$, twice what
    scikit-learn's `brier_score_loss` says by default of two classes.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        A scalar; not-a-number without pixels; absent classes add nothing.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(f"{brier_score(calibration):.4f}")
    0.5500

    References:
        Brier, Verification of Forecasts Expressed in Terms of Probability, 1950,
        https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return _mean(calibration, calibration.brier)


@integers.compiled
def brier_per_class(calibration: Calibration) -> Any:
    r"""The Brier score of the pixels of each true class, $\mathrm{mean}_{y = c} \sum_k (p_k - [k = y])^2$.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        `[K]`; not-a-number for absent classes, those without truth.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(np.round(np.asarray(brier_per_class(calibration), float), 4))
    [0.06 1.04  nan]

    References:
        Brier, Verification of Forecasts Expressed in Terms of Probability, 1950,
        https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return _class_means(calibration, calibration.brier)


@integers.compiled
def negative_log_likelihood(calibration: Calibration) -> Any:
    r"""The mean over pixels of $-\log p_y$: the cross-entropy without weights, in nats.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        A scalar; infinite where a pixel's truth has the probability 0; not-a-number without pixels; absent classes add
        nothing.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(f"{negative_log_likelihood(calibration):.4f}")
    0.9163

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
    """
    infinite = ~integers.is_zero(calibration.infinite).all()
    return _or_infinite(infinite, _mean(calibration, calibration.nll))


@integers.compiled
def nll_per_class(calibration: Calibration) -> Any:
    r"""The negative log-likelihood of the pixels of each true class, $\mathrm{mean}_{y = c} -\log p_y$, in nats.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        `[K]`; infinite where a pixel's truth has the probability 0; not-a-number for absent classes, those without truth.

    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(np.round(np.asarray(nll_per_class(calibration), float), 4))
    [0.2231 1.6094    nan]

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
    """
    infinite = ~integers.is_zero(calibration.infinite)
    return _or_infinite(infinite, _class_means(calibration, calibration.nll))


def _values(logits: Array, labels: Array) -> tuple[Array, Array, Array, Array]:
    """Of each pixel confidence, whether its most probable class is right, Brier score and negative log-likelihood."""
    logits = widened(logits)
    if logits.shape[-1] == 1:
        positive = logits[..., 0] > 0
        towards = jnp.where(labels == 1, logits[..., 0], -logits[..., 0])
        wrong = jax.nn.sigmoid(-towards)
        confidence = jax.nn.sigmoid(jnp.abs(logits[..., 0]))
        return confidence, positive == (labels == 1), 2 * wrong * wrong, jax.nn.softplus(-towards)
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=p.dtype)
    nll = -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    brier = jnp.square(p - truth).sum(-1)
    return p.max(-1), jnp.argmax(logits, -1).astype(labels.dtype) == labels, brier, nll


def _sum(values: Array, cells: Array, size: int, *, whole_bytes: int = 1) -> integers.Limbs:
    """The sum of the values in each cell, `[size, 3]`, in multiples of 2**-24: exactly, byte by byte."""
    values = jnp.where(cells == size, 0, values)
    whole = jnp.floor(values)
    fraction = jnp.round((values - whole) * 2.0**integers.BITS).astype(jnp.uint32)
    whole = whole.astype(jnp.uint32) + (fraction >> integers.BITS)
    parts = [whole >> 8 * i & 255 for i in reversed(range(whole_bytes))]
    parts += [fraction >> 8 * i & 255 for i in reversed(range(3))]
    total = jnp.zeros((size, 3), jnp.uint32)
    for part in parts:
        new = integers.sum_over_devices(histogram(cells, size, weights=part))
        total = integers.add(integers.carry(total << 8), new)
    return total


def _value(limbs: integers.Limbs) -> Any:
    return integers.to_float(limbs) * 2.0**-integers.BITS


def _mean(calibration: Calibration, sums: integers.Limbs) -> Any:
    pixels = integers.to_float(integers.total(calibration.pixels, -1))
    return _checked(calibration, ratio(_value(integers.total(sums, -1)), pixels))


def _class_means(calibration: Calibration, sums: integers.Limbs) -> Any:
    return _checked(calibration, ratio(_value(sums), integers.to_float(calibration.pixels)))


def _checked(calibration: Calibration, value: Any) -> Any:
    """The value; not-a-number where a pixel had logits that are none."""
    namespace = integers.namespace(value)
    return namespace.where(integers.is_zero(calibration.broken), value, namespace.nan)


def _or_infinite(infinite: Any, value: Any) -> Any:
    namespace = integers.namespace(value)
    return namespace.where(infinite & ~namespace.isnan(value), namespace.inf, value)
