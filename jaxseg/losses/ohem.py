"""Cross-entropies of the hardest pixels alone: online hard example mining, and its top-k form.

Which pixels are hard is decided in each image by itself, so that cutting a batch over devices changes nothing. With
`per_image=False` it is decided over the batch that is at hand: under `pmap` and `shard_map` that is each device's own part,
and the selection then depends on how many devices there are.
"""

import jax.numpy as jnp
from jax import lax

from jaxseg.errors import InputError
from jaxseg.losses.pixelwise import Entries, entries
from jaxseg.losses.reduce import weighted_mean
from jaxseg.losses.targets import ClassWeights, read
from jaxseg.typing import Array


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
        min_kept: How many pixels are kept at least, 1 or more: of each image, or of the batch.
        per_image: Whether pixels are selected in each image by itself.

    Returns:
        A scalar, float32 or wider: $\sum_i w_i l_i / \sum_i w_i$ over the kept pixels of the global batch; 0 with a zero gradient
        when every pixel is ignored.

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
    entry = entries(read(logits, labels, ignore_index), class_weights)
    hardness = _hardness(entry, per_image)
    place = min(min_kept, hardness.shape[1]) - 1
    last_kept = jnp.sort(hardness, axis=1, descending=True)[:, place, None]
    kept = (jnp.exp(-hardness) < threshold) | (hardness >= last_kept) | jnp.isnan(hardness)
    return _mean(entry, kept)


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
        per_image: Whether pixels are selected in each image by itself.

    Returns:
        A scalar, float32 or wider: $\sum_i w_i l_i / \sum_i w_i$ over the kept pixels of the global batch; 0 with a zero gradient
        when every pixel is ignored. Pixels that tie for the last place are all kept.

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
    entry = entries(read(logits, labels, ignore_index), class_weights)
    hardness = _hardness(entry, per_image)
    number = (hardness >= 0).sum(1, dtype=jnp.int32).astype(hardness.dtype)
    place = jnp.maximum(jnp.floor(number * fraction).astype(jnp.int32), 1) - 1
    ranked = jnp.sort(hardness, axis=1, descending=True)
    last_kept = jnp.take_along_axis(ranked, place[:, None], axis=1)
    return _mean(entry, (hardness >= last_kept) | jnp.isnan(hardness))


def _hardness(entry: Entries, per_image: bool) -> Array:
    """`[G, P]`: the loss of what counts, -1 of what does not, of each image or of the batch."""
    groups = entry.nll.shape[0] if per_image else 1
    hardness = jnp.where(entry.weights > 0, entry.nll, -1)
    return lax.stop_gradient(hardness.reshape(groups, -1))


def _mean(entry: Entries, kept: Array) -> Array:
    return weighted_mean(entry.nll, jnp.where(kept.reshape(entry.nll.shape), entry.weights, 0))
