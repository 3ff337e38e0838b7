"""Cross-entropies of the hardest pixels alone: online hard example mining and the top-k loss.

Hard pixels are selected in each image, or with `per_image=False` in the global batch.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.losses.pixelwise import pixel_terms
from jaxseg.losses.reduce import count_at_least, kth_largest, weighted_mean
from jaxseg.losses.targets import ClassWeights, read_targets
from jaxseg.typing import Array


def ohem_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    per_image: bool = True,
) -> Array:
    r"""The mean cross-entropy of the pixels whose label is not probable yet.

    A pixel is selected if $p_y < t$, or if it is one of the `min_kept` pixels whose labels are the least probable.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`, whose entries are selected one by one.
        ignore_index: The label of ignored pixels and entries, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, not negative; ones by default. They weight the mean, not the selection.
        threshold: $t$ in `[0, 1]`, a probability.
        min_kept: The smallest number of selected pixels, at least 1, in each image or in the global batch.
        per_image: Whether pixels are selected in each image, or in the global batch.

    Returns:
        A scalar, float32 or wider, $\sum_i w_i l_i / \sum_i w_i$ over the selected pixels of the global batch; 0 with a zero
        gradient if every pixel is ignored. The mean is over pixels, not over classes: absent classes have no term.

    Raises:
        InputError: If shapes do not match or an option is out of its range.

    >>> logits = jnp.array([[[[4.0, 0.0], [0.0, 0.0], [0.0, 4.0]]]])
    >>> ohem_cross_entropy(logits, jnp.array([[[0, 0, 0]]]), threshold=0.6, min_kept=1).round(2)
    Array(2.36, dtype=float32)

    References:
        Shrivastava, Gupta and Girshick, Training Region-based Object Detectors with Online Hard Example Mining, 2016,
        https://arxiv.org/abs/1604.03540. The rule is that of mmsegmentation's `OhemCrossEntropy` and `OHEMPixelSampler`
        (which select in the batch), with two differences: where an image has `min_kept` pixels or fewer, all are selected
        here, and all but the easiest there; and weights are also part of the denominator, as in `cross_entropy`.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}, it must be a probability in [0, 1]")
    if min_kept < 1:
        raise InputError(f"min_kept is {min_kept}, it must be at least 1")

    def count(num_valid: Array) -> Array:
        return jnp.full_like(num_valid, min_kept)

    def select(nll: Array, last: Array) -> Array:
        return (jnp.exp(-nll) < threshold) | (nll >= last)

    return _mean_of_selected(count, select, logits, labels, ignore_index, class_weights, per_image)


def topk_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    fraction: float = 0.1,
    per_image: bool = True,
) -> Array:
    r"""The mean of the largest cross-entropies: those of a fraction of the pixels.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`, whose entries are selected one by one.
        ignore_index: The label of ignored pixels and entries, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, not negative; ones by default. They weight the mean, not the selection.
        fraction: The fraction f of the pixels that are not ignored, in `(0, 1]`; of n pixels $\max(\lfloor f n \rfloor, 1)$.
        per_image: Whether pixels are selected in each image, or in the global batch.

    Returns:
        A scalar, float32 or wider, $\sum_i w_i l_i / \sum_i w_i$ over the selected pixels of the global batch; 0 with a zero
        gradient if every pixel is ignored. Pixels that tie with the last selected one are selected too. The mean is over
        pixels, not over classes: absent classes have no term.

    Raises:
        InputError: If shapes do not match or `fraction` is outside `(0, 1]`.

    >>> logits = jnp.array([[[[4.0, 0.0], [0.0, 0.0], [0.0, 4.0]]]])
    >>> topk_cross_entropy(logits, jnp.array([[[0, 0, 0]]]), fraction=0.4).round(2)
    Array(4.02, dtype=float32)

    References:
        Wu, Shen and van den Hengel, Bridging Category-level and Instance-level Semantic Image Segmentation, 2016,
        https://arxiv.org/abs/1605.06885; nnU-Net's top-k loss selects a tenth of the pixels of the batch.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}, it must be in (0, 1]")

    def count(num_valid: Array) -> Array:
        number = jnp.floor(num_valid.astype(jnp.result_type(float)) * fraction)
        return jnp.maximum(number.astype(jnp.int32), 1)

    def select(nll: Array, last: Array) -> Array:
        return nll >= last

    return _mean_of_selected(count, select, logits, labels, ignore_index, class_weights, per_image)


def _mean_of_selected(
    count: Callable[[Array], Array],
    select: Callable[[Array, Array], Array],
    logits: Array,
    labels: Array,
    ignore_index: Ignored,
    class_weights: ClassWeights | None,
    per_image: bool,
) -> Array:
    """Returns the weighted mean cross-entropy of the selected pixels.

    Args:
        count: Maps the number of pixels with a weight, `[G]` for G groups, to the number to select in any case.
        select: Maps the cross-entropies and the smallest one to select in any case to whether each pixel is selected.
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids or multilabel targets.
        ignore_index: The label of ignored pixels and entries.
        class_weights: `[max(K, 2)]`.
        per_image: Whether a group is an image, or the global batch.
    """
    terms = pixel_terms(read_targets(logits, labels, ignore_index), class_weights)
    nll = jnp.where(terms.weights > 0, terms.nll, -1)  # never selected
    fixed = lax.stop_gradient(nll)
    num_valid = count_at_least(fixed, jnp.zeros((), nll.dtype), per_image=per_image)
    last = kth_largest(fixed, count(num_valid), per_image=per_image)
    selected = select(fixed, last) | jnp.isnan(fixed)
    return weighted_mean(nll, jnp.where(selected, terms.weights, 0))


LOSSES = {
    "ohem": ohem_cross_entropy,
    "topk": topk_cross_entropy,
}
