"""Cross-entropies of the hardest pixels alone: online hard example mining, and its top-k form.

Which pixels are hard is decided in each image by itself, or with `per_image=False` over the global batch. Nothing is sorted:
the loss of the last pixel that is kept is found bit by bit, from counts of the pixels that are as hard. Counts of parts of a
batch add up, so that cutting it over devices changes nothing, and on a CPU counting takes less time and memory than a sort.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.losses.columns import map_by_columns, mean_of, sums_over_columns
from jaxseg.losses.nll import widen
from jaxseg.losses.pixelwise import Entries, entries
from jaxseg.losses.targets import ClassWeights, checked_class_weights, read
from jaxseg.typing import Array

_FEW = 12  # bytes of a pixel's logits up to which its loss is computed again for each bit: kept, it would be a large part


def ohem_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    per_image: bool = True,
) -> Array:
    r"""The mean cross-entropy of the pixels whose label is not probable yet.

    A pixel is kept where $p_y < t$, and in any case if it is one of the `min_kept` whose label is the least probable.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`, whose entries are selected one by one.
        ignore_index: The label of what counts for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, not negative; ones by default. They weigh the mean and not the selection.
        threshold: $t$ in `[0, 1]`, a probability.
        min_kept: How many pixels are kept at least, 1 or more: of each image, or of the global batch.
        per_image: Whether pixels are selected in each image by itself, or in the global batch.

    Returns:
        A scalar, float32 or wider: $\sum_i w_i l_i / \sum_i w_i$ over the kept pixels of the global batch; 0 with a zero gradient
        when every pixel is ignored. Pixels are averaged, not classes, so that absent ones have no term of their own.

    Raises:
        InputError: Shapes do not fit, or an option is out of its range.

    >>> logits = jnp.array([[[[4.0, 0.0], [0.0, 0.0], [0.0, 4.0]]]])
    >>> ohem_cross_entropy(logits, jnp.array([[[0, 0, 0]]]), threshold=0.6, min_kept=1).round(2)
    Array(2.36, dtype=float32)

    References:
        Shrivastava, Gupta and Girshick, Training Region-based Object Detectors with Online Hard Example Mining, 2016,
        https://arxiv.org/abs/1604.03540. The rule for pixels is mmsegmentation's `OhemCrossEntropy` and `OHEMPixelSampler`
        (which select over the batch), but for two things: where an image has `min_kept` pixels or fewer all are kept, there
        all but the easiest; and weights stand in the denominator too, as in `cross_entropy`.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}, it is a probability in [0, 1]")
    if min_kept < 1:
        raise InputError(f"min_kept is {min_kept}, there must be 1 or more")

    kept = _below_or_last, threshold

    def number(counted: Array) -> Array:
        return jnp.full_like(counted, min_kept)

    return _mean_of_kept(kept, number, logits, labels, ignore_index, class_weights, per_image)


def topk_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    fraction: float = 0.1,
    per_image: bool = True,
) -> Array:
    r"""The mean cross-entropy of the fraction of pixels with the largest.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`, whose entries are selected one by one.
        ignore_index: The label of what counts for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, not negative; ones by default. They weigh the mean and not the selection.
        fraction: The share of the pixels that are not ignored, in `(0, 1]`; of n pixels, $\lfloor f n \rfloor$ and 1 at least.
        per_image: Whether pixels are selected in each image by itself, or in the global batch.

    Returns:
        A scalar, float32 or wider: $\sum_i w_i l_i / \sum_i w_i$ over the kept pixels of the global batch; 0 with a zero gradient
        when every pixel is ignored. Pixels that tie for the last place are all kept. Pixels are averaged, not classes, so
        that absent ones have no term of their own.

    Raises:
        InputError: Shapes do not fit, or `fraction` is outside `(0, 1]`.

    >>> logits = jnp.array([[[[4.0, 0.0], [0.0, 0.0], [0.0, 4.0]]]])
    >>> topk_cross_entropy(logits, jnp.array([[[0, 0, 0]]]), fraction=0.4).round(2)
    Array(4.02, dtype=float32)

    References:
        Wu, Shen and van den Hengel, Bridging Category-level and Instance-level Semantic Image Segmentation, 2016,
        https://arxiv.org/abs/1605.06885; nnU-Net's top-k loss takes a tenth of the batch's pixels.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}, it is a share in (0, 1]")

    def number(counted: Array) -> Array:
        share = counted.astype(jnp.result_type(float)) * fraction
        return jnp.maximum(jnp.floor(share).astype(jnp.int32), 1)

    kept = (_up_to_last,)
    return _mean_of_kept(kept, number, logits, labels, ignore_index, class_weights, per_image)


def _mean_of_kept(
    kept: tuple,
    number: Callable[[Array], Array],
    logits: Array,
    labels: Array,
    ignore_index: int,
    class_weights: ClassWeights | None,
    per_image: bool,
) -> Array:
    """The weighted mean of what is kept.

    Args:
        kept: A function from the hardness of each entry and that of the last one to be kept in any case, to whether it is
            kept; and more of its arguments.
        number: From how many entries each group has that count, `[G]`, to how many of them are kept in any case.
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids, or multilabel targets.
        ignore_index: The label of what counts for nothing.
        class_weights: `[max(K, 2)]`.
        per_image: Whether a group is an image, or the global batch.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    targets = read(logits, labels, ignore_index)
    weights = checked_class_weights(class_weights, logits)
    given = lax.stop_gradient(logits), labels, weights
    if targets.sigmoid or logits.shape[-1] * logits.dtype.itemsize <= _FEW:

        def as_hard(least: Array) -> Array:
            """`[N]`: how many entries are as hard, whose losses are computed again."""
            constants = weights, least
            (found,) = sums_over_columns(_as_hard, (ignore_index,), *given[:2], constants)
            return found.reshape(len(found), -1).sum(1, dtype=jnp.int32)
    else:
        like = jax.ShapeDtypeStruct(labels.shape, widen(logits).dtype)
        hardness = map_by_columns(
            lambda logits, labels: _hardness(logits, labels, weights, ignore_index),
            like,
            *given[:2],
        )

        def as_hard(least: Array) -> Array:
            found = hardness >= _along(_as_float(least), 3)
            return found.sum((1, 2), dtype=jnp.int32)

    dtype = widen(logits).dtype
    last = _last_kept(as_hard, number, len(logits), dtype, per_image)
    options = ignore_index, *kept
    return mean_of(_terms, options, logits, labels, (weights, last))


def _below_or_last(hardness: Array, last: Array, threshold: float) -> Array:
    return (jnp.exp(-hardness) < threshold) | (hardness >= last)


def _up_to_last(hardness: Array, last: Array) -> Array:
    return hardness >= last


def _terms(
    logits: Array, labels: Array, constants: tuple, ignore_index: int, kept: Callable, *options
) -> tuple[Array, Array]:
    """The loss of what is kept, and its weight."""
    class_weights, last = constants
    entry = entries(read(logits, labels, ignore_index), class_weights)
    hard = _hardness_of(entry)
    chosen = kept(hard, _along(last, hard.ndim), *options) | jnp.isnan(hard)
    weights = jnp.where(chosen, entry.weights, 0)
    return jnp.where(weights == 0, 0, entry.nll * weights), weights


def _as_hard(logits: Array, labels: Array, constants: tuple, ignore_index: int) -> tuple[Array]:
    class_weights, least = constants
    hard = _hardness(logits, labels, class_weights, ignore_index)
    return ((hard >= _along(_as_float(least), hard.ndim)).astype(jnp.int32),)


def _hardness(
    logits: Array, labels: Array, class_weights: Array | None, ignore_index: int
) -> Array:
    return _hardness_of(entries(read(logits, labels, ignore_index), class_weights))


def _hardness_of(entry: Entries) -> Array:
    """The loss of what counts, -1 of what does not."""
    return lax.stop_gradient(jnp.where(entry.weights > 0, entry.nll, -1))


def _along(groups: Array, ndim: int) -> Array:
    """`[G]` as `[G, 1, ...]`."""
    return groups.reshape(-1, *[1] * (ndim - 1))


def _as_float(bits: Array) -> Array:
    return lax.bitcast_convert_type(bits, jnp.dtype(f"float{8 * bits.dtype.itemsize}"))


def _last_kept(
    as_hard: Callable[[Array], Array],
    number: Callable[[Array], Array],
    images: int,
    dtype: jnp.dtype,
    per_image: bool,
) -> Array:
    """`[G]`: the so-many-th largest hardness of each group, 0 where it has fewer entries that count.

    Floats that are not negative are in the order of their bits, which are found from the highest to the lowest one.
    """
    groups, width = images if per_image else 1, 8 * dtype.itemsize
    integer = jnp.dtype(f"int{width}")

    def number_of(least: Array) -> Array:
        found = as_hard(least)
        return found if per_image else collective.psum(found.sum(keepdims=True, dtype=jnp.int32))

    def add_bit(step: Array, found: Array) -> Array:
        candidate = found | (jnp.ones((), integer) << (width - 2 - step).astype(integer))
        return jnp.where(number_of(candidate) >= wanted, candidate, found)

    none = jnp.zeros(groups, integer)
    wanted = number(number_of(none))
    return _as_float(lax.fori_loop(0, width - 1, add_bit, none))
