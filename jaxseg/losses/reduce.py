"""From per-pixel values to one number: ratios of sums over the global batch.

The mean of local means is not the mean: devices hold different numbers of ignored pixels. So numerators and
denominators are summed over all devices first (`jaxseg.collective`), and divided once.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.typing import Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def sum_together(arrays: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
    """The sum of each array over one axis, all of them in one pass, rounded about once.

    What each addition rounds off is added up beside the sum (Knuth's two-sum): at 2048x2048 pixels float32 keeps seven
    digits, where a plain chain of additions keeps two. And XLA on a CPU fuses sums of several numbers with what computes
    the summands, where it writes the summands of a plain sum to memory first.

    Args:
        arrays: Of one shape, floating.
        axis: Which axis to sum over.

    >>> [x.tolist() for x in sum_together((jnp.ones((2, 3)), jnp.zeros((2, 3))), 1)]
    [[3.0, 3.0], [0.0, 0.0]]
    """
    lost = tuple(jnp.zeros_like(x) for x in arrays)
    zeros = tuple(jnp.zeros((), x.dtype) for x in arrays)
    totals = lax.reduce((*arrays, *lost), (*zeros, *zeros), two_sum, (axis,))
    return rounded(totals)


@sum_together.defjvp
def _sum_together_jvp(axis, primals, tangents):
    return sum_together(*primals, axis), tuple(x.sum(axis) for x in tangents[0])


def two_sum(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """The sums of both, and after them all that has been lost.

    >>> [float(x) for x in two_sum((jnp.float32(1), jnp.float32(0)), (jnp.float32(1e-9), jnp.float32(0)))]
    [1.0, 9.999999717180685e-10]
    """
    number = len(a) // 2
    totals, lost = [], []
    for x, y, lost_x, lost_y in zip(a[:number], b[:number], a[number:], b[number:], strict=True):
        total = x + y
        part = total - x
        totals.append(total)
        lost.append(lost_x + lost_y + ((x - (total - part)) + (y - part)))
    return (*totals, *lost)


def rounded(totals: tuple[Array, ...]) -> tuple[Array, ...]:
    """Sums from what `two_sum` has answered last."""
    pairs = zip(totals[: len(totals) // 2], totals[len(totals) // 2 :], strict=True)
    return tuple(jnp.where(jnp.isfinite(total), total + lost, total) for total, lost in pairs)


def sums_per_image(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The sum of each array over rows and columns: `[N, H, W, ...]` to `[N, ...]`.

    >>> [x.tolist() for x in sums_per_image((jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 0.5)))]
    [[12.0, 12.0], [6.0, 6.0]]
    """
    return sum_together(sum_together(arrays, 2), 1)


def sums(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """The sum of each array over images, rows and columns: `[N, H, W, ...]` to `[...]`.

    >>> [float(x) for x in sums((jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 0.5)))]
    [24.0, 12.0]
    """
    return sum_together(sums_per_image(arrays), 0)


def ratio_of_sums(numerators: Array, denominators: Array) -> Array:
    r"""$\sum_i a_i / \sum_i b_i$ over every element on every device; 0 where the denominator is 0.

    Args:
        numerators: Any shape, floating.
        denominators: The numerators' shape and type, not negative.

    Returns:
        A scalar; its gradient is zero too where the denominators sum to 0.

    Raises:
        InputError: Shapes differ.

    >>> float(ratio_of_sums(jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])))
    1.5
    >>> float(ratio_of_sums(jnp.zeros(2), jnp.zeros(2)))
    0.0

    What is ignored or absent has 0 in both.

    References:
        Ogita, Rump and Oishi, Accurate Sum and Dot Product, 2005, https://doi.org/10.1137/030601818, for the sums.
    """
    if numerators.shape != denominators.shape:
        raise InputError(f"numerators are {numerators.shape}, denominators {denominators.shape}")
    shape = (*numerators.shape, 1, 1, 1)[: max(numerators.ndim, 3)]
    pair = (numerators.reshape(shape), denominators.reshape(shape))
    numerator, denominator = collective.psum(tuple(x.sum() for x in sums(pair)))
    empty = denominator == 0
    return jnp.where(empty, 0, numerator) / jnp.where(empty, 1, denominator)


def mean_over_pixels(numerators: Array, denominators: Array, *, per_image: bool) -> Array:
    r"""$\sum_i a_i / \sum_i b_i$ over the global batch, or its mean over the images whose denominators are not all 0.

    Args:
        numerators: `[N, H, W, ...]`, floating.
        denominators: The numerators' shape and type, not negative.
        per_image: Whether each image has a ratio of its own.

    Returns:
        A scalar; 0, with a zero gradient, where there is nothing to divide by.

    >>> loss, weights = jnp.array([[[1.0, 3.0]], [[4.0, 0.0]]]), jnp.array([[[1.0, 1.0]], [[1.0, 0.0]]])
    >>> [round(float(mean_over_pixels(loss, weights, per_image=each)), 2) for each in (False, True)]
    [2.67, 3.0]
    """
    if not per_image:
        return ratio_of_sums(numerators, denominators)
    both = sums_per_image((numerators, denominators))
    total, weight = (x.reshape(len(x), -1).sum(1) for x in both)
    empty = weight == 0
    return weighted_mean(jnp.where(empty, 0, total) / jnp.where(empty, 1, weight), ~empty)


def weighted_mean(loss: Array, weights: Array) -> Array:
    r"""$\sum_i w_i l_i / \sum_i w_i$ over the global batch; 0 where the weights sum to 0.

    Elements of weight zero, as of ignored pixels and absent classes, count for nothing, whatever their loss is: infinite and
    not-a-number included.

    Args:
        loss: Any shape, floating.
        weights: The loss's shape, boolean or floating, not negative.

    Returns:
        A scalar of the loss's type.

    >>> loss = jnp.array([1.0, 3.0, jnp.nan])
    >>> float(weighted_mean(loss, jnp.array([True, True, False])))
    2.0

    References:
        As of `ratio_of_sums`: https://doi.org/10.1137/030601818
    """
    weights = weights.astype(loss.dtype)
    return ratio_of_sums(jnp.where(weights == 0, 0, loss) * weights, weights)
