"""Losses of the overlap of whole regions: ratios of sums over pixels, of each class.

Probabilities are a softmax's for K >= 2; for K = 1 they are the sigmoid's, and the one region is that of label 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg import collective
from jaxseg.losses.pixelwise import ClassWeights, check_class_weights, mask_ignored
from jaxseg.losses.reduce import weighted_mean
from jaxseg.typing import Array


def dice_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""One minus the soft Dice coefficient, averaged over the classes that are there.

    $$ l_c = 1 - \frac{2 \sum_i p_{ic} y_{ic} + s}{\sum_i p_{ic} + \sum_i y_{ic} + s} $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: `[N, H, W]`, any integer type: `0..max(K, 2)-1` or `ignore_index`.
        ignore_index: The label of pixels that count for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        smooth: $s$, not negative.
        per_image: Whether sums run over each image by itself, and the mean over images and classes; otherwise sums run
            over the global batch.

    Returns:
        A scalar in `[0, 1]`, float32 or wider. Classes without a pixel of truth (in the batch, or in the image) are left
        out of the mean; where there is none at all the loss and its gradient are 0.

    Raises:
        InputError: Shapes do not fit.

    >>> logits = jnp.array([[[[9.0, -9.0], [-9.0, 9.0]]]])
    >>> dice_loss(logits, jnp.array([[[0, 1]]])).round(2)
    Array(0., dtype=float32)
    >>> dice_loss(logits, jnp.array([[[1, 255]]])).round(2)
    Array(1., dtype=float32)

    References:
        Milletari, Navab and Ahmadi, V-Net, 2016, https://arxiv.org/abs/1606.04797 (squares in the denominator, not
        here). segmentation_models.pytorch also gives absent classes no loss but divides by K all the same, so its loss
        falls with the number of classes that a batch happens to lack; its `smooth` is half of this one.
    """

    def coefficient(overlap: Array, predicted: Array, true: Array) -> tuple[Array, Array]:
        return 2 * overlap + smooth, predicted + true + smooth

    return _loss(coefficient, logits, labels, ignore_index, class_weights, per_image)


def jaccard_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    smooth: float = 0.0,
    per_image: bool = False,
) -> Array:
    r"""One minus the soft intersection over union, averaged over the classes that are there.

    $$ l_c = 1 - \frac{\sum_i p_{ic} y_{ic} + s}{\sum_i p_{ic} + \sum_i y_{ic} - \sum_i p_{ic} y_{ic} + s} $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: `[N, H, W]`, any integer type: `0..max(K, 2)-1` or `ignore_index`.
        ignore_index: The label of pixels that count for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        smooth: $s$, not negative.
        per_image: Whether sums run over each image by itself, and the mean over images and classes; otherwise sums run
            over the global batch.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; absent classes are left out as in `dice_loss`.

    Raises:
        InputError: Shapes do not fit.

    >>> logits = jnp.array([[[[20.0, -20.0], [20.0, -20.0]]]])
    >>> jaccard_loss(logits, jnp.array([[[0, 1]]])).round(2)
    Array(0.75, dtype=float32)

    References:
        Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation, 2016,
        https://doi.org/10.1007/978-3-319-50835-1_22
    """

    def coefficient(overlap: Array, predicted: Array, true: Array) -> tuple[Array, Array]:
        return overlap + smooth, predicted + true - overlap + smooth

    return _loss(coefficient, logits, labels, ignore_index, class_weights, per_image)


def _loss(
    coefficient: Callable[[Array, Array, Array], tuple[Array, Array]],
    logits: Array,
    labels: Array,
    ignore_index: int,
    class_weights: ClassWeights | None,
    per_image: bool,
) -> Array:
    """The mean of one minus a coefficient over the classes (and images) that have a pixel of truth.

    `coefficient` makes numerator and denominator of the sums of p y, of p and of y: `[K]` of the global batch, or
    `[N, K]` of each image.
    """
    logits, labels, counted = mask_ignored(logits, labels, ignore_index)
    num_classes = logits.shape[-1]
    weights = check_class_weights(class_weights, num_classes, logits.dtype)
    weights = jnp.ones(1, logits.dtype) if num_classes == 1 else weights
    if num_classes == 1:
        probabilities, truth = jax.nn.sigmoid(logits), (labels == 1)[..., None]
    else:
        probabilities, truth = (
            jax.nn.softmax(logits),
            jax.nn.one_hot(labels, num_classes, dtype=bool),
        )
    probabilities = jnp.where(counted[..., None], probabilities, 0)
    truth = (truth & counted[..., None]).astype(probabilities.dtype)

    sums = (probabilities * truth, probabilities, truth)
    if per_image:
        overlap, predicted, true = (x.sum((1, 2)) for x in sums)
    else:
        overlap, predicted, true = collective.psum(tuple(x.sum((0, 1, 2)) for x in sums))
    present = true > 0
    numerator, denominator = coefficient(overlap, predicted, true)
    loss = 1 - jnp.where(present, numerator, 0) / jnp.where(present, denominator, 1)
    # What is the same on every device already may be summed over them once more: it cancels in the ratio.
    return weighted_mean(loss, jnp.where(present, jnp.broadcast_to(weights, loss.shape), 0))
