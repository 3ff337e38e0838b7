"""The generalised Dice loss: one ratio for all classes, small ones weighing as much as large ones."""

import jax.numpy as jnp

from jaxseg.ignored import Ignored
from jaxseg.losses.reduce import weighted_mean
from jaxseg.losses.region import check_not_negative, overlaps, region_weights
from jaxseg.losses.targets import ClassWeights, read_soft_masks
from jaxseg.typing import Array


def generalized_dice_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""One minus the Dice coefficient of all classes together, each weighted by one over the square of its size.

    $$ l = 1 - \frac{2 \sum_c w_c O_c + s}{\sum_c w_c (P_c + T_c) + s}, \qquad w_c = \omega_c / T_c^2 $$

    with the sums of `jaxseg.losses.region` and class weights $\omega$. An absent class, without truth, whose weight would be infinite,
    takes the largest weight of the others, as in the authors' code: what is predicted there counts against the prediction.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: $\omega$, `[max(K, 2)]`; ones by default. For K = 1 there is one class and nothing to weigh.
        smooth: $s$, not negative, in units of the largest $w_c$.
        per_image: Whether sums run over each image by itself, and the mean over the images with truth.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; 0 with a zero gradient where no class has a pixel.

    Raises:
        InputError: Shapes do not fit, or `smooth` is negative.

    >>> logits = jnp.array([[[[20.0, -20.0], [20.0, -20.0]]]])
    >>> generalized_dice_loss(logits, jnp.array([[[0, 1]]])).round(2)
    Array(0.5, dtype=float32)

    References:
        Sudre, Li, Vercauteren, Ourselin and Cardoso, Generalised Dice overlap as a deep learning loss function for highly
        unbalanced segmentations, 2017, https://arxiv.org/abs/1707.03237; MONAI adds its `smooth_nr` and `smooth_dr` to the
        unscaled sums.
    """
    check_not_negative(smooth=smooth)
    masks = read_soft_masks(logits, labels, ignore_index)
    overlap, predicted, true = overlaps(masks, per_image)
    present = true != 0
    # In units of the smallest class: 1 / T**2 itself is 1e-13 at four million pixels.
    smallest = jnp.where(present, true, jnp.inf).min(-1, keepdims=True)
    weights = jnp.where(present, (smallest / jnp.where(present, true, 1)) ** 2, 1)
    weights *= jnp.broadcast_to(region_weights(class_weights, masks), weights.shape)
    numerator = 2 * (weights * overlap).sum(-1) + smooth
    denominator = (weights * (predicted + true)).sum(-1) + smooth
    there = present.any(-1) & (denominator != 0)
    loss = 1 - jnp.where(there, numerator, 0) / jnp.where(there, denominator, 1)
    return weighted_mean(loss, there)


LOSSES = {
    "generalized_dice": generalized_dice_loss,
}
