"""Losses that weigh every pixel by its distance from a boundary: Kervadec's boundary loss and the Hausdorff loss.

Distances are exact, in pixels, of each image and class by itself, computed on the device in every step. What is ignored
is neither inside nor outside: distances are to the nearest valid pixel on the other side.
"""

import jax.numpy as jnp
from jax import lax

from jaxseg.distance import distance_transform
from jaxseg.ignored import Ignored
from jaxseg.losses.reduce import mean_over_pixels
from jaxseg.losses.region import check_not_negative, region_weights
from jaxseg.losses.targets import ClassWeights, SoftMasks, read_soft_masks
from jaxseg.typing import Array


def boundary_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    per_image: bool = False,
) -> Array:
    r"""The mean of the probabilities times the signed distance from the true boundary, over pixels and classes.

    $$ l = \frac{\sum_{ic} w_c\, \phi_c(i)\, p_{ic}}{\sum_{ic} w_c} $$

    $\phi_c(i)$ is the distance to the nearest pixel of class c outside of it, and one minus the distance to the nearest
    pixel of another class inside: 0 at the innermost side of the boundary, negative further in.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`, which count as a class above 1/2.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: $w$, `[max(K, 2)]`; ones by default, 0 leaves a class out. For K = 1 there is nothing to weigh.
        per_image: Whether each image has a mean of its own, and those are averaged.

    Returns:
        A scalar, float32 or wider, negative for a good prediction; 0 with a zero gradient when every pixel is ignored. An
        absent class, that an image has none of or nothing else, has no boundary there: its distances are 0 and count in the mean, as in
        the paper's code.

    Raises:
        InputError: Shapes do not fit.

    >>> logits = jnp.array([[[[-20.0], [-20.0], [20.0]]]])
    >>> round(float(boundary_loss(logits, jnp.array([[[1, 0, 0]]]))), 2)
    0.67

    References:
        Kervadec, Bouchtiba, Desrosiers, Granger, Dolz and Ben Ayed, Boundary loss for highly unbalanced segmentation, 2019,
        https://arxiv.org/abs/1812.07032. The authors add it to a region loss, with a weight that grows from 0.01.
    """
    masks = read_soft_masks(logits, labels, ignore_index)
    inside = masks.truth > 0.5
    near, far = _distances(inside, masks.valid)
    signed = jnp.where(far > 0, 1 - far, near)
    return _mean(masks.probabilities * signed, masks, class_weights, per_image)


def hausdorff_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    alpha: float = 2.0,
    per_image: bool = False,
) -> Array:
    r"""The mean of the squared error times its distance from both boundaries, over pixels and classes.

    $$ l = \frac{\sum_{ic} w_c\, (p_{ic} - y_{ic})^2 (d_p(i, c)^\alpha + d_y(i, c)^\alpha)}{\sum_{ic} w_c} $$

    $d_y$ is the distance to the nearest pixel on the other side of the true boundary, $d_p$ of the predicted one, which is
    where p is 1/2. Neither carries a gradient.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`, which count as a class above 1/2.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: $w$, `[max(K, 2)]`; ones by default, 0 leaves a class out (MONAI leaves out the first). For K = 1 there
            is nothing to weigh.
        alpha: $\alpha$, not negative: how much more a far mistake costs.
        per_image: Whether each image has a mean of its own, and those are averaged.

    Returns:
        A scalar, not negative, float32 or wider; 0 with a zero gradient when every pixel is ignored. An absent class, or one
        that fills an image, in truth or prediction, has no boundary there: that distance is 0, as in MONAI.

    Raises:
        InputError: Shapes do not fit, or `alpha` is negative.

    >>> logits = jnp.array([[[[20.0], [-20.0], [20.0], [-20.0]]]])
    >>> hausdorff_loss(logits, jnp.array([[[1, 0, 0, 0]]])).round(2)
    Array(1.25, dtype=float32)

    References:
        Karimi and Salcudean, Reducing the Hausdorff Distance in Medical Image Segmentation with Convolutional Neural
        Networks, 2019, https://arxiv.org/abs/1904.10030; MONAI's `HausdorffDTLoss`.
    """
    check_not_negative(alpha=alpha)
    masks = read_soft_masks(logits, labels, ignore_index)
    distance = sum(
        sum(_distances(x > 0.5, masks.valid)) ** alpha
        for x in (lax.stop_gradient(masks.probabilities), masks.truth)
    )
    terms = (masks.probabilities - masks.truth) ** 2 * distance
    return _mean(terms, masks, class_weights, per_image)


def _distances(inside: Array, valid: Array) -> tuple[Array, Array]:
    """`[N, H, W, K]` each: to the nearest pixel inside, and outside; 0 all over an image that lacks one of them."""
    inside, valid = (jnp.moveaxis(x, -1, 1) for x in (inside, valid))
    near = distance_transform(inside & valid)
    far = distance_transform(~inside & valid)
    both = jnp.isfinite(near) & jnp.isfinite(far)
    near, far = (jnp.moveaxis(jnp.where(both, x, 0), 1, -1) for x in (near, far))
    return near, far


def _mean(
    terms: Array, masks: SoftMasks, class_weights: ClassWeights | None, per_image: bool
) -> Array:
    """Over what is valid, by class weights."""
    weights = jnp.where(masks.valid, region_weights(class_weights, masks)[None, None, None], 0)
    terms = jnp.where(weights == 0, 0, terms * weights)
    return mean_over_pixels(terms, weights, per_image=per_image)


LOSSES = {
    "boundary": boundary_loss,
    "hausdorff": hausdorff_loss,
}
