r"""Lovasz losses: the convex surface through the Jaccard index of every possible set of mistakes.

For each class the errors $m_i$ of the pixels are sorted, largest first; the loss is $\sum_i m_{(i)}\, \Delta_i$, where $\Delta_i$ is by
how much the Jaccard loss grows when pixel (i) is got wrong after all pixels before it. With G pixels of truth, $F_i$ and
$N_i$ those of truth and of no truth among the first i, and $U_i = G + N_i$ the union,

$$ \Delta_i = \frac{n_i (G - F_{i-1}) + f_i U_{i-1}}{U_{i-1} U_i} $$

where $f_i$ and $n_i$ say whether pixel (i) is one of truth or not. The authors' code subtracts neighbours of the sequence
$1 - (G - F_i) / U_i$, which in float32 leaves no digit of $\Delta$ at a million pixels; this form subtracts nothing.

Sorting needs all pixels in one place, so errors are sorted in each image by itself, and cutting a batch over devices changes
nothing. With `per_image=False` they are sorted over the batch that is at hand: under `pmap` and `shard_map` that is each
device's own part, and the loss then depends on how many devices there are.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg.ignored import Ignored
from jaxseg.losses.reduce import weighted_mean
from jaxseg.losses.region import region_weights
from jaxseg.losses.targets import ClassWeights, SoftMasks, read_soft_masks
from jaxseg.typing import Array


def lovasz_softmax_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    per_image: bool = True,
    present_only: bool = True,
) -> Array:
    r"""The Lovasz extension of the Jaccard loss at the errors $|y_c - p_c|$ of the probabilities.

    Probabilities are a softmax's, or of one sigmoid for each class where targets are binary or multilabel.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        per_image: Whether errors are sorted in each image by itself, and the losses of images averaged.
        present_only: Whether a class that an image has no pixel of is left out of the image's mean over classes;
            otherwise its loss there is its largest error.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; images that are ignored as a whole, or whose classes are all absent where
        those are left out, are no part of the mean.

    Raises:
        InputError: Shapes do not fit.

    >>> logits = jnp.array([[[[20.0, -20.0], [20.0, -20.0]]]])
    >>> lovasz_softmax_loss(logits, jnp.array([[[0, 1]]])).round(2)
    Array(0.75, dtype=float32)

    References:
        Berman, Rannen Triki and Blaschko, The Lovasz-Softmax loss: A tractable surrogate for the optimization of the
        intersection-over-union measure in neural networks, 2018, https://arxiv.org/abs/1705.08790. Their code counts an
        image that is ignored as a whole as one without loss.
    """
    masks = read_soft_masks(logits, labels, ignore_index)
    errors = jnp.abs(masks.truth - masks.probabilities)
    return _mean(errors, masks, class_weights, per_image, present_only)


def lovasz_hinge_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    per_image: bool = True,
    present_only: bool = False,
) -> Array:
    r"""The Lovasz extension of the Jaccard loss at the hinge errors $\max(0, 1 - z (2 y - 1))$ of the logits.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, each class against the rest; multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        per_image: Whether errors are sorted in each image by itself, and the losses of images averaged.
        present_only: Whether a class that an image has no pixel of is left out of the image's mean over classes;
            otherwise its loss there is its largest error, as in the paper.

    Returns:
        A scalar, not negative, float32 or wider; images that are ignored as a whole are left out. Absent classes are as
        `present_only` says.

    Raises:
        InputError: Shapes do not fit.

    >>> lovasz_hinge_loss(jnp.array([[[[2.0], [0.0]]]]), jnp.array([[[1, 1]]]))
    Array(0.5, dtype=float32)

    References:
        Yu and Blaschko, The Lovasz Hinge: A Novel Convex Surrogate for Submodular Losses, 2015,
        https://arxiv.org/abs/1512.07797; Berman et al. (see `lovasz_softmax_loss`). segmentation_models.pytorch sorts the
        errors of all multilabel classes together.
    """
    masks = read_soft_masks(logits, labels, ignore_index)
    errors = jax.nn.relu(1 - masks.logits * (2 * masks.truth - 1))
    return _mean(errors, masks, class_weights, per_image, present_only)


def _mean(
    errors: Array,
    masks: SoftMasks,
    class_weights: ClassWeights | None,
    per_image: bool,
    present_only: bool,
) -> Array:
    """The mean over groups (images, or the one batch) of the weighted mean over classes."""
    groups, num_classes = errors.shape[0] if per_image else 1, errors.shape[-1]
    errors, truth, valid = (
        x.reshape(groups, -1, num_classes).swapaxes(1, 2)
        for x in (errors, masks.truth, masks.valid)
    )
    losses = _extension(errors, truth, valid)
    there = (truth != 0).any(-1) if present_only else valid.any(-1)
    weights = jnp.where(there, region_weights(class_weights, masks)[None], 0)
    total = weights.sum(1)
    of_group = jnp.where(there, losses * weights, 0).sum(1) / jnp.where(total > 0, total, 1)
    return weighted_mean(of_group, total > 0)


def _extension(errors: Array, truth: Array, valid: Array) -> Array:
    """`[G, K]`: the Lovasz extension along the last axis of `[G, K, P]` errors."""
    errors = jnp.where(valid, errors, 0)
    keys = jnp.where(valid, -errors, jnp.inf)  # what is ignored comes last
    place = lax.broadcasted_iota(jnp.int32, errors.shape, 2)
    _, order = lax.sort((lax.stop_gradient(keys), place), dimension=2, num_keys=1)
    ordered = jnp.take_along_axis(errors, order, axis=2)
    fore, any_ground = (
        jnp.take_along_axis(x, order, axis=2) for x in (truth, valid.astype(truth.dtype))
    )
    back = any_ground - fore
    size = fore.sum(2, keepdims=True)
    union = size + jnp.cumsum(back, axis=2)
    before = union - back
    missing = size - (jnp.cumsum(fore, axis=2) - fore)
    growth = (back * missing + fore * before) / jnp.where(before > 0, before * union, 1)
    # Without truth the first mistake makes the Jaccard loss 1 at once.
    first = (place == 0).astype(growth.dtype)
    growth = jnp.where(size > 0, growth, first)
    return (ordered * lax.stop_gradient(growth)).sum(2)


LOSSES = {
    "lovasz_hinge": lovasz_hinge_loss,
    "lovasz_softmax": lovasz_softmax_loss,
}
