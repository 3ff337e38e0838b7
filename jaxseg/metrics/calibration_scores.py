"""Scores from the sums of `Calibration`: calibration errors, reliability diagram, Brier score and likelihood."""

from typing import Any, NamedTuple

import numpy as np

from jaxseg.metrics import exact_integers
from jaxseg.metrics.calibration import Calibration
from jaxseg.metrics.scores import ratio, sum_in_pairs


class Reliability(NamedTuple):
    r"""The reliability diagram: how often pixels of some confidence are right, $\mathrm{acc}_b$ over $\mathrm{conf}_b$.

    Ignored pixels are in no bin.

    Attributes:
        edges: `[B + 1]`: where the bins begin and end.
        confidence: `[B]`: the mean confidence of each bin, NaN without pixels.
        accuracy: `[B]`: the share of right pixels of each bin, NaN without pixels.
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
        Bins `[B]`; NaN for those that are absent, without pixels.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(reliability(calibration).accuracy[-6:])
    [ 0. nan nan  1. nan nan]

    References:
        DeGroot and Fienberg, The Comparison and Evaluation of Forecasters, 1983, https://doi.org/10.2307/2987588
    """
    edges = np.linspace(0, 1, calibration.bins.shape[0] + 1)
    return Reliability(edges, *_of_bins(calibration))


@exact_integers.compiled
def _of_bins(calibration: Calibration) -> tuple[Any, Any, Any]:
    wrong, right = (calibration.bins[:, i] for i in range(2))
    pixels = _checked(calibration, exact_integers.to_float(exact_integers.add(wrong, right)))
    confidence = ratio(_value(calibration.confidence), pixels)
    return confidence, ratio(exact_integers.to_float(right), pixels), pixels


@exact_integers.compiled
def expected_calibration_error(calibration: Calibration) -> Any:
    r"""The expected calibration error: how far confidence and accuracy are apart, over bins of equal width.

    $$ \mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right| $$

    Equal to torchmetrics' `multiclass_calibration_error(norm="l1")` except where confidences are exactly 1: those have a
    bin of their own there. torchmetrics' *binary* error is another quantity: it bins the probability of class 1 instead
    of the confidence in the predicted class, over `[0, 1]` instead of `[0.5, 1]`.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        A scalar; NaN without pixels; bins that are absent add nothing.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(f"{expected_calibration_error(calibration):.4f}")
    0.4000

    References:
        Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017,
        https://arxiv.org/abs/1706.04599. There bins contain their upper edges, here their lower ones.
    """
    gaps = _gaps(calibration.bins[:, 1], calibration.confidence)
    return _checked(calibration, ratio(gaps, _pixels(calibration)))


@exact_integers.compiled
def ece_per_class(calibration: Calibration) -> Any:
    r"""The calibration error of each class: how far its probability and its frequency are apart, over bins of equal width.

    All n pixels that count are binned by their probability of class k. Of the $n_{bk}$ of bin b, $\mathrm{prob}_{bk}$ is the
    mean of it and $\mathrm{freq}_{bk}$ the share of pixels that are truly k:

    $$ \mathrm{ECE}_k = \sum_b \frac{n_{bk}}{n} \left| \mathrm{freq}_{bk} - \mathrm{prob}_{bk} \right| $$

    The mean over classes is the paper's class-wise error. Other than `expected_calibration_error` it looks at every class of
    a pixel, not at the predicted one alone. It is small for rare classes, as most pixels are rightly sure of their absence.

    Equal to torchmetrics' `binary_calibration_error(norm="l1")` of each class against the others, except where
    probabilities are exactly 1: those have a bin of their own there.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        `[K]`, two for one sigmoid; NaN for absent classes, those without truth, whatever their probabilities.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(np.round(np.asarray(ece_per_class(calibration), float), 4))
    [0.4  0.45  nan]

    References:
        Kull, Perello-Nieto, Kängsepp, Silva Filho, Song and Flach, Beyond temperature scaling: Obtaining well-calibrated
        multiclass probabilities with Dirichlet calibration, 2019, https://arxiv.org/abs/1910.12656
    """
    gaps = _gaps(calibration.class_truth, calibration.class_probability)
    absent = exact_integers.is_zero(calibration.pixels)
    namespace = exact_integers.namespace(absent)
    return _checked(calibration, ratio(gaps, namespace.where(absent, 0, _pixels(calibration))))


@exact_integers.compiled
def brier_score(calibration: Calibration) -> Any:
    r"""The Brier score: the mean over pixels of $\sum_k (p_k - [k = y])^2$.

    It is summed over classes, as by Brier, and lies in `[0, 2]`; for one sigmoid it is $2 (p - y)^2$, twice what
    scikit-learn's `brier_score_loss` says by default of two classes.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        A scalar; NaN without pixels; absent classes add nothing.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(f"{brier_score(calibration):.4f}")
    0.5500

    References:
        Brier, Verification of Forecasts Expressed in Terms of Probability, 1950,
        https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return _mean(calibration, calibration.brier)


@exact_integers.compiled
def brier_per_class(calibration: Calibration) -> Any:
    r"""The Brier score of the pixels of each true class, $\mathrm{mean}_{y = c} \sum_k (p_k - [k = y])^2$.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        `[K]`; NaN for absent classes, those without truth.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(np.round(np.asarray(brier_per_class(calibration), float), 4))
    [0.06 1.04  nan]

    References:
        Brier, Verification of Forecasts Expressed in Terms of Probability, 1950,
        https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    return _class_means(calibration, calibration.brier)


@exact_integers.compiled
def negative_log_likelihood(calibration: Calibration) -> Any:
    r"""The mean over pixels of $-\log p_y$: the cross-entropy without weights, in nats.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        A scalar; infinite where a pixel's truth has the probability 0; NaN without pixels; absent classes add
        nothing.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(f"{negative_log_likelihood(calibration):.4f}")
    0.9163

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
    """
    infinite = ~exact_integers.is_zero(calibration.infinite).all()
    return _or_infinite(infinite, _mean(calibration, calibration.nll))


@exact_integers.compiled
def nll_per_class(calibration: Calibration) -> Any:
    r"""The negative log-likelihood of the pixels of each true class, $\mathrm{mean}_{y = c} -\log p_y$, in nats.

    Args:
        calibration: Of any number of pixels; ignored ones are in none of its sums.

    Returns:
        `[K]`; infinite where a pixel's truth has the probability 0; NaN for absent classes, those without truth.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]]]))
    >>> calibration = Calibration.zero(3).update(logits=logits, labels=jnp.array([[[0, 1]]]))
    >>> print(np.round(np.asarray(nll_per_class(calibration), float), 4))
    [0.2231 1.6094    nan]

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
    """
    infinite = ~exact_integers.is_zero(calibration.infinite)
    return _or_infinite(infinite, _class_means(calibration, calibration.nll))


def _gaps(hits: exact_integers.Limbs, probability: exact_integers.Limbs) -> Any:
    """The sum over bins of how far hits and probabilities `[..., B, 3]` are apart."""
    # A hit counts one, a probability in multiples of 2**-24: both in the latter, the difference is exact.
    hits, probability = (
        exact_integers.digits(x) for x in (exact_integers.times_unit(hits), probability)
    )
    gaps = exact_integers.scaled(exact_integers.difference(hits, probability)[1])
    return sum_in_pairs(gaps * 2.0 ** (64 - exact_integers.BITS))


def _pixels(calibration: Calibration) -> Any:
    return exact_integers.to_float(exact_integers.total(calibration.pixels, -1))


def _value(limbs: exact_integers.Limbs) -> Any:
    return exact_integers.to_float(limbs) * 2.0**-exact_integers.BITS


def _mean(calibration: Calibration, sums: exact_integers.Limbs) -> Any:
    sums = exact_integers.total(sums, -1)
    return _checked(calibration, ratio(_value(sums), _pixels(calibration)))


def _class_means(calibration: Calibration, sums: exact_integers.Limbs) -> Any:
    return _checked(calibration, ratio(_value(sums), exact_integers.to_float(calibration.pixels)))


def _checked(calibration: Calibration, value: Any) -> Any:
    """The value; NaN where a pixel had logits that are none."""
    namespace = exact_integers.namespace(value)
    return namespace.where(exact_integers.is_zero(calibration.broken), value, namespace.nan)


def _or_infinite(infinite: Any, value: Any) -> Any:
    namespace = exact_integers.namespace(value)
    return namespace.where(infinite & ~namespace.isnan(value), namespace.inf, value)
