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
    totals = lax.reduce((*arrays, *lost), (*zeros, *zeros), _two_sum, (axis,))
    return _rounded(totals)


@sum_together.defjvp
def _sum_together_jvp(axis, primals, tangents):
    return sum_together(*primals, axis), tuple(x.sum(axis) for x in tangents[0])


def _two_sum(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
    """Adds totals and, behind them, their rounding errors."""
    count = len(a) // 2
    totals, errors = [], []
    for x, y, error_x, error_y in zip(a[:count], b[:count], a[count:], b[count:], strict=True):
        total = x + y
        y_added = total - x
        totals.append(total)
        errors.append(error_x + error_y + ((x - (total - y_added)) + (y - y_added)))
    return (*totals, *errors)


def _rounded(totals: tuple[Array, ...]) -> tuple[Array, ...]:
    """Adds the rounding errors of `_two_sum` to their totals."""
    pairs = zip(totals[: len(totals) // 2], totals[len(totals) // 2 :], strict=True)
    return tuple(jnp.where(jnp.isfinite(total), total + error, total) for total, error in pairs)


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
    NaN included.

    Args:
        loss: Any shape, floating.
        weights: The loss's shape, boolean or floating, not negative.

    Returns:
        A scalar of the loss's type.

    >>> loss = jnp.array([1.0, 3.0, jnp.nan])
    >>> float(weighted_mean(loss, jnp.array([True, True, False])))
    2.0

    References:
        The same as for `ratio_of_sums`: https://doi.org/10.1137/030601818
    """
    weights = weights.astype(loss.dtype)
    return ratio_of_sums(jnp.where(weights == 0, 0, loss) * weights, weights)


def kth_largest(values: Array, k: Array, *, per_image: bool) -> Array:
    """The k-th largest value of each image or of the global batch, without sorting.

    Its bits are found from the highest to the lowest, by counting values: floats that are not negative are ordered as their
    bits are. Unlike a sort, counts add up over devices.

    Args:
        values: `[N, H, W, ...]`, floating; negative values and NaN are left out.
        k: `[N]` int32 if per image, `[1]` otherwise.
        per_image: Whether each image has a k-th largest value of its own.

    Returns:
        `[N, 1, 1, ...]` or `[1, 1, 1, ...]`, of the rank of `values`; 0 where there are fewer than k values.

    >>> kth_largest(jnp.array([[[3.0, -1.0, 5.0, 4.0]]]), jnp.array([2]), per_image=True).tolist()
    [[[4.0]]]
    """
    integer = jnp.dtype(f"int{8 * values.dtype.itemsize}")

    def to_float(bits: Array) -> Array:
        return lax.bitcast_convert_type(bits, values.dtype).reshape(-1, *[1] * (values.ndim - 1))

    def add_bit(step: Array, bits: Array) -> Array:
        candidate = bits | (
            jnp.ones((), integer) << (8 * integer.itemsize - 2 - step).astype(integer)
        )
        reached = count_at_least(values, to_float(candidate), per_image=per_image) >= k
        return jnp.where(reached, candidate, bits)

    zeros = jnp.zeros(k.shape, integer)
    return to_float(lax.fori_loop(0, 8 * integer.itemsize - 1, add_bit, zeros))


def count_at_least(values: Array, bound: Array, *, per_image: bool) -> Array:
    """The number of values that are `bound` or more, in each image or in the global batch.

    Args:
        values: `[N, H, W, ...]`, floating.
        bound: A scalar, or of the rank of `values` with a length of 1 for all axes but the first.
        per_image: Whether each image has a count of its own.

    Returns:
        `[N]` int32 if per image, `[1]` otherwise.

    >>> count_at_least(jnp.array([[[3.0, 5.0]], [[4.0, 2.0]]]), jnp.array(3.0), per_image=False).tolist()
    [3]
    """
    counts = (values >= bound).sum(tuple(range(1, values.ndim)), dtype=jnp.int32)
    return counts if per_image else collective.psum(counts.sum(keepdims=True, dtype=jnp.int32))
