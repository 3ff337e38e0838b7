r"""Losses of the overlap of whole regions: ratios of sums over pixels, of each class.

With $p_{ic}$ the probability of class c at pixel i (of a softmax, or of sigmoids: then of label 1) and $y_{ic}$ its
truth, every loss here is made of $O_c = \sum_i p_{ic} y_{ic}$, $P_c = \sum_i p_{ic}$ and $T_c = \sum_i y_{ic}$ over the pixels
that are not ignored. `jaxseg.losses.targets` says which labels are read how.

Sums run over the global batch, however it is split over devices; `per_image=True` takes them of each image and the mean
over all pairs of an image and a class that is in it. A class without truth ($T_c = 0$) is *absent* and left out of the mean
over classes, since its ratio says nothing but that any prediction is wrong; without any class the loss and its gradient
are 0. segmentation_models.pytorch gives absent classes no loss either but divides by K all the same, so its loss falls
with the number of classes that a batch happens to lack.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.losses.nll import power
from jaxseg.losses.reduce import sums, sums_per_image, weighted_mean
from jaxseg.losses.targets import ClassWeights, SoftMasks, check_class_weights, read_soft_masks
from jaxseg.typing import Array


def dice_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""One minus the soft Dice coefficient, averaged over the classes that are there.

    $$ l_c = 1 - \frac{2 O_c + s}{P_c + T_c + s} $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        smooth: $s$, not negative.
        per_image: Whether sums run over each image by itself.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; absent classes are left out of the mean.

    Raises:
        InputError: Shapes do not fit, or `smooth` is negative.

    >>> logits = jnp.array([[[[9.0, -9.0], [-9.0, 9.0]]]])
    >>> dice_loss(logits, jnp.array([[[0, 1]]])).round(2)
    Array(0., dtype=float32)
    >>> dice_loss(logits, jnp.array([[[1, 255]]])).round(2)
    Array(1., dtype=float32)

    References:
        Milletari, Navab and Ahmadi, V-Net, 2016, https://arxiv.org/abs/1606.04797 (squares in the denominator, not
        here). `smooth` of segmentation_models.pytorch is half of this one.
    """

    def loss(overlap: Array, predicted: Array, true: Array) -> Array:
        return 1 - (2 * overlap + smooth) / (predicted + true + smooth)

    check_not_negative(smooth=smooth)
    return mean_over_classes(loss, logits, labels, ignore_index, class_weights, per_image)


def jaccard_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""One minus the soft intersection over union, averaged over the classes that are there.

    $$ l_c = 1 - \frac{O_c + s}{P_c + T_c - O_c + s} $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        smooth: $s$, not negative.
        per_image: Whether sums run over each image by itself.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; absent classes are left out of the mean.

    Raises:
        InputError: Shapes do not fit, or `smooth` is negative.

    >>> logits = jnp.array([[[[20.0, -20.0], [20.0, -20.0]]]])
    >>> jaccard_loss(logits, jnp.array([[[0, 1]]])).round(2)
    Array(0.75, dtype=float32)

    References:
        Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation, 2016,
        https://doi.org/10.1007/978-3-319-50835-1_22
    """

    def loss(overlap: Array, predicted: Array, true: Array) -> Array:
        return 1 - (overlap + smooth) / (predicted + true - overlap + smooth)

    check_not_negative(smooth=smooth)
    return mean_over_classes(loss, logits, labels, ignore_index, class_weights, per_image)


def tversky_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""One minus the soft Tversky index, averaged over the classes that are there.

    $$ l_c = 1 - \frac{O_c + s}{O_c + \alpha (P_c - O_c) + \beta (T_c - O_c) + s} $$

    Both weights 1/2 make it `dice_loss` with twice the `smooth`, both 1 `jaccard_loss`.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        alpha: $\alpha$, the price of false positives, not negative.
        beta: $\beta$, the price of false negatives, not negative.
        smooth: $s$, not negative.
        per_image: Whether sums run over each image by itself.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; absent classes are left out of the mean.

    Raises:
        InputError: Shapes do not fit, or an option is negative.

    >>> logits = jnp.array([[[[20.0, -20.0], [20.0, -20.0]]]])
    >>> tversky_loss(logits, jnp.array([[[0, 1]]]), alpha=1.0, beta=1.0).round(2)
    Array(0.75, dtype=float32)

    References:
        Salehi, Erdogmus and Gholipour, Tversky loss function for image segmentation using 3D fully convolutional deep
        networks, 2017, https://arxiv.org/abs/1706.05721
    """
    check_not_negative(alpha=alpha, beta=beta, smooth=smooth)
    loss = _tversky(alpha, beta, smooth)
    return mean_over_classes(loss, logits, labels, ignore_index, class_weights, per_image)


def focal_tversky_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""The Tversky loss of each class to the power $\gamma$, averaged over the classes that are there.

    Below 1, $\gamma$ keeps the gradient of classes that are nearly right; above 1 it favours those that are not.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        alpha: The price of false positives, not negative.
        beta: The price of false negatives, not negative.
        gamma: $\gamma$, the exponent itself, positive: the paper writes $1 / \gamma$ and takes 3/4 for it.
        smooth: $s$ of `tversky_loss`, not negative.
        per_image: Whether sums run over each image by itself.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; absent classes are left out of the mean. A class that is exactly right has
        no gradient.

    Raises:
        InputError: Shapes do not fit, or an option is negative.

    >>> logits = jnp.array([[[[20.0, -20.0], [20.0, -20.0]]]])
    >>> focal_tversky_loss(logits, jnp.array([[[0, 1]]]), alpha=1.0, beta=1.0, gamma=2.0)
    Array(0.625, dtype=float32)

    References:
        Abraham and Khan, A novel Focal Tversky loss function with improved Attention U-Net for lesion segmentation, 2018,
        https://arxiv.org/abs/1810.07842 (a sum over classes, here the mean). segmentation_models.pytorch takes the power of
        the mean over classes instead.
    """
    check_not_negative(alpha=alpha, beta=beta, smooth=smooth)
    if not gamma > 0:
        raise InputError(f"gamma is {gamma}, it must be positive")
    plain = _tversky(alpha, beta, smooth)

    def loss(overlap: Array, predicted: Array, true: Array) -> Array:
        return power(jnp.maximum(plain(overlap, predicted, true), 0), gamma)

    return mean_over_classes(loss, logits, labels, ignore_index, class_weights, per_image)


def log_cosh_dice_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""$\log \cosh$ of `dice_loss`: quadratic where it is small, and so smooth where a prediction is nearly right.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes, which is taken first.
        smooth: $s$ of `dice_loss`, not negative.
        per_image: Whether sums run over each image by itself.

    Returns:
        A scalar in `[0, 0.44]`, float32 or wider; absent classes are left out of the mean.

    Raises:
        InputError: Shapes do not fit, or `smooth` is negative.

    >>> logits = jnp.array([[[[20.0, -20.0], [20.0, -20.0]]]])
    >>> round(float(log_cosh_dice_loss(logits, jnp.array([[[1, 1]]]))), 4)
    0.4338

    References:
        Jadon, A survey of loss functions for semantic segmentation, 2020, https://arxiv.org/abs/2006.14822
    """
    dice = dice_loss(
        logits,
        labels,
        ignore_index=ignore_index,
        class_weights=class_weights,
        smooth=smooth,
        per_image=per_image,
    )
    # log cosh x = log(1 + 2 sinh(x / 2)**2), which does not cancel near 0.
    return jnp.log1p(2 * jnp.sinh(dice / 2) ** 2)


def mean_over_classes(
    loss: Callable[[Array, Array, Array], Array],
    logits: Array,
    labels: Array,
    ignore_index: Ignored,
    class_weights: ClassWeights | None,
    per_image: bool,
) -> Array:
    """The weighted mean of a loss over the classes (and images) with truth.

    Args:
        loss: From the sums $O_c$, $P_c$, $T_c$ of the classes, `[K]` of the global batch or `[N, K]` of each image, to the
            loss of each. Where a class is absent, it is given ones.
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids, multilabel or soft targets.
        ignore_index: The label of what counts for nothing.
        class_weights: `[max(K, 2)]`.
        per_image: Whether sums run over each image by itself.
    """
    masks = read_soft_masks(logits, labels, ignore_index)
    overlap, predicted, true = overlaps(masks, per_image)
    present = true != 0
    terms = loss(*(jnp.where(present, x, 1) for x in (overlap, predicted, true)))
    weights = region_weights(class_weights, masks)
    # What is the same on every device already may be summed over them once more: it cancels in the ratio.
    return weighted_mean(terms, jnp.where(present, jnp.broadcast_to(weights, terms.shape), 0))


def overlaps(masks: SoftMasks, per_image: bool) -> tuple[Array, Array, Array]:
    """$O_c$, $P_c$, $T_c$: `[N, K]` of each image, or `[K]` of the global batch."""
    parts = (masks.probabilities * masks.truth, masks.probabilities, masks.truth)
    overlap, predicted, true = sums_per_image(parts) if per_image else collective.psum(sums(parts))
    return overlap, predicted, true


def region_weights(class_weights: ClassWeights | None, masks: SoftMasks) -> Array:
    """`[K]`: the weights of the mean over classes; one sigmoid has one term."""
    num_classes, dtype = masks.logits.shape[-1], masks.logits.dtype
    weights = check_class_weights(class_weights, num_classes, dtype)
    return jnp.ones(1, dtype) if num_classes == 1 else weights


def _tversky(alpha: float, beta: float, smooth: float) -> Callable[[Array, Array, Array], Array]:
    def loss(overlap: Array, predicted: Array, true: Array) -> Array:
        wrong = alpha * (predicted - overlap) + beta * (true - overlap)
        return 1 - (overlap + smooth) / (overlap + wrong + smooth)

    return loss


def check_not_negative(**options: float) -> None:
    """Raises InputError where an option is negative or not finite."""
    for name, value in options.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"{name} is {value}, it must be finite and not negative")


LOSSES = {
    "dice": dice_loss,
    "focal_tversky": focal_tversky_loss,
    "jaccard": jaccard_loss,
    "log_cosh_dice": log_cosh_dice_loss,
    "tversky": tversky_loss,
}
