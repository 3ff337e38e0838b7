r"""Agreement beyond chance: Cohen's kappa and Matthews' correlation of a whole table of counts.

Both subtract what chance would give, $\sum_c T_c P_c$ with $T_c$ true and $P_c$ predicted pixels, from what was found. Near
zero, and where one class has nearly all pixels, float32 loses the difference; so products and differences are taken in
whole numbers (`jaxseg.metrics.exact_integers`) and only the results are rounded.

Where a formula is 0 / 0 the score is NaN, as for all metrics.
"""

from typing import Any

from jaxseg.metrics import exact_integers
from jaxseg.metrics.confusion_counts import Counts, marginals, tables
from jaxseg.metrics.scores import Score, ratio


def cohen_kappa(counts: Counts) -> Score:
    r"""Cohen's kappa: agreement of truth and prediction beyond that of chance.

    $$ \kappa = \frac{p_o - p_e}{1 - p_e}
              = \frac{n \sum_c C_{cc} - \sum_c T_c P_c}{n^2 - \sum_c T_c P_c} $$

    Args:
        counts: A `ConfusionMatrix`, `MultilabelCounts`, or `[K, K]` counts; ignored pixels are in none.

    Returns:
        A scalar in `[-1, 1]`, of `MultilabelCounts` `[K]`; absent classes add nothing; NaN where all pixels are of one class and were
        predicted as it, and without pixels. Equal to scikit-learn's `cohen_kappa_score`.

    Raises:
        InputError: For outcomes, which are not whole tables.

    >>> import numpy as np
    >>> float(cohen_kappa(np.array([[3, 1], [0, 4]])))
    0.75

    References:
        Cohen, A Coefficient of Agreement for Nominal Scales, 1960, https://doi.org/10.1177/001316446002000104
    """
    found, square, (chance, _, _) = _products(tables(counts))
    return _signed_ratio(found, chance, exact_integers.scaled(_minus(square, chance)))


def matthews_correlation(counts: Counts) -> Score:
    r"""Matthews' correlation coefficient, for several classes Gorodkin's $R_K$: the correlation of truth and prediction.

    $$ R_K = \frac{n \sum_c C_{cc} - \sum_c T_c P_c}{\sqrt{n^2 - \sum_c T_c^2}\, \sqrt{n^2 - \sum_c P_c^2}} $$

    Args:
        counts: A `ConfusionMatrix`, `MultilabelCounts`, or `[K, K]` counts; ignored pixels are in none.

    Returns:
        A scalar in `[-1, 1]`, of `MultilabelCounts` `[K]`; absent classes add nothing. NaN where truth or prediction is one class
        everywhere: there is no correlation with a constant. Elsewhere equal to scikit-learn's `matthews_corrcoef`, which
        says 0 there; torchmetrics says 0, 1 or -1.

    Raises:
        InputError: For outcomes, which are not whole tables.

    >>> import numpy as np
    >>> float(matthews_correlation(np.array([[3, 1], [0, 4]])).round(4))
    0.7746

    References:
        Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004,
        https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    found, square, (chance, true, predicted) = _products(tables(counts))
    xp = exact_integers.namespace(found)
    spread = [xp.sqrt(exact_integers.scaled(_minus(square, part))) for part in (true, predicted)]
    return _signed_ratio(found, chance, spread[0] * spread[1])


@exact_integers.compiled
def _products(limbs: exact_integers.Limbs) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    r"""Exact, as digits: $n \sum_c C_{cc}$ and $n^2$, and the sums over c of $T_c P_c$, $T_c^2$ and $P_c^2$."""
    xp = exact_integers.namespace(limbs)
    right, true, predicted, everything = marginals(limbs)
    right = exact_integers.digits(exact_integers.total(right, -1))
    true, predicted, everything = map(exact_integers.digits, (true, predicted, everything))
    dots = exact_integers.digits_total(
        exact_integers.multiply(
            xp.stack([true, true, predicted]), xp.stack([predicted, true, predicted])
        ),
        -1,
    )
    squares = exact_integers.multiply(everything[None], xp.stack([right, everything]))
    return squares[0], squares[1], (dots[0], dots[1], dots[2])


@exact_integers.compiled
def _minus(a: Any, b: Any) -> Any:
    return exact_integers.difference(a, b)[1]


@exact_integers.compiled
def _signed_ratio(a: Any, b: Any, denominator: Any) -> Any:
    """(a - b) / denominator."""
    negative, size = exact_integers.difference(a, b)
    value = exact_integers.scaled(size)
    return ratio(exact_integers.namespace(value).where(negative, -value, value), denominator)
