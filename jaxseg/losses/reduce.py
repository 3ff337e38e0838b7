"""From per-pixel values to one number: ratios of sums over the global batch.

The mean of local means is not the mean: devices hold different numbers of ignored pixels. So numerators and
denominators are summed over all devices first (`jaxseg.collective`), and divided once.
"""

import jax.numpy as jnp

from jaxseg import collective
from jaxseg.typing import Array


def ratio_of_sums(numerators: Array, denominators: Array) -> Array:
    r"""$\sum_i a_i / \sum_i b_i$ over every element on every device; 0 where the denominator is 0.

    Args:
        numerators: Any shape, floating.
        denominators: Any shape, floating, not negative.

    Returns:
        A scalar; its gradient is zero too where the denominators sum to 0.

    >>> float(ratio_of_sums(jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])))
    1.5
    >>> float(ratio_of_sums(jnp.zeros(2), jnp.zeros(2)))
    0.0
    """
    numerator, denominator = collective.psum((numerators.sum(), denominators.sum()))
    empty = denominator == 0
    return jnp.where(empty, 0, numerator) / jnp.where(empty, 1, denominator)


def weighted_mean(loss: Array, weights: Array) -> Array:
    r"""$\sum_i w_i l_i / \sum_i w_i$ over the global batch; 0 where the weights sum to 0.

    Elements of weight zero count for nothing, whatever their loss is: infinite and not-a-number included.

    Args:
        loss: Any shape, floating.
        weights: The loss's shape, boolean or floating, not negative.

    Returns:
        A scalar of the loss's type.

    >>> loss = jnp.array([1.0, 3.0, jnp.nan])
    >>> float(weighted_mean(loss, jnp.array([True, True, False])))
    2.0
    """
    weights = weights.astype(loss.dtype)
    return ratio_of_sums(jnp.where(weights == 0, 0, loss) * weights, weights)
