"""Cross-entropies of pixels `[N, H, W]`, and their mean.

`jaxseg.losses.targets` documents how labels are read, and what ignored pixels and labels out of range do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.losses.nll import (
    nll_of_binary_distribution,
    nll_of_binary_labels,
    nll_of_distribution,
    nll_of_labels,
)
from jaxseg.losses.reduce import mean_over_pixels
from jaxseg.losses.targets import (
    ClassWeights,
    Targets,
    check_class_weights,
    read_one_vs_rest,
    read_targets,
)
from jaxseg.typing import Array


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
) -> Array:
    r"""The cross-entropy of a softmax at each pixel.

    $$ l = (1 - \epsilon) \sum_c y_c\, w_c\, (-\log p_c) + \frac{\epsilon}{K} \sum_c w_c\, (-\log p_c) $$

    Args:
        logits: `[N, H, W, K]`, any floating type, K >= 2.
        labels: `[N, H, W]` integers, `0..K-1` or `ignore_index`; or `[N, H, W, K]` floating, the probability $y_c$ of each
            class, which carry no gradient.
        ignore_index: The label of ignored pixels, any integer; several such labels, or None for none.
        class_weights: `[K]`, not negative; ones by default.
        label_smoothing: $\epsilon$ in `[0, 1]`, the part of the target that is spread over all classes.

    Returns:
        `[N, H, W]`, float32 or wider; 0 at ignored pixels. Absent classes have no term. Equal to torch's
        `cross_entropy(reduction="none")`.

    Raises:
        InputError: If shapes do not match, K is 1, or `label_smoothing` is outside `[0, 1]`.

    >>> logits = jnp.array([[[[0.0, 0.0], [9.0, 9.0]]]])
    >>> softmax_cross_entropy(logits, jnp.array([[[1, 255]]])).round(2)
    Array([[[0.69, 0.  ]]], dtype=float32)

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, Rethinking the Inception Architecture for Computer Vision (label
        smoothing), 2016, https://arxiv.org/abs/1512.00567
    """
    targets = read_targets(logits, labels, ignore_index)
    if targets.sigmoid:
        raise InputError(
            "a softmax needs 2 classes or more, and class ids or floating probabilities of classes; for one class "
            "and for multilabel targets use sigmoid_cross_entropy"
        )
    return _softmax_loss(targets, class_weights, label_smoothing)


def sigmoid_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
    pos_weight: float | Array = 1.0,
) -> Array:
    r"""The cross-entropy of sigmoids at each pixel, for each class.

    With the target $y$ smoothed to $t = (1 - \epsilon) y + \epsilon / 2$, and the weight of positives $\omega$,

    $$ l = w\, (\omega\, t\, (-\log \sigma(z)) + (1 - t) (-\log (1 - \sigma(z)))) $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: For K = 1, `[N, H, W]` of 0, 1 or `ignore_index`. For K > 1, multilabel `[N, H, W, K]` of the same values, or
            class ids `[N, H, W]`, which are read as one class against the rest. Floating labels are probabilities.
        ignore_index: The label of ignored pixels and entries, any integer; several such labels, or None for none.
        class_weights: For K = 1, `[2]`, the weights of label 0 and label 1; otherwise `[K]`. Not negative, ones by default.
        label_smoothing: $\epsilon$ in `[0, 1]`.
        pos_weight: $\omega$, a number or `[K]`, as in torch; unlike a class weight it is not part of the mean's denominator.

    Returns:
        The shape of the labels for K = 1, `[N, H, W, K]` for K > 1; float32 or wider; 0 where ignored. The labels of an absent
        class are all 0 and contribute as such.

    Raises:
        InputError: If shapes do not match or `label_smoothing` is outside `[0, 1]`.

    >>> sigmoid_cross_entropy(jnp.array([[[[0.0], [9.0]]]]), jnp.array([[[1, 255]]])).round(2)
    Array([[[0.69, 0.  ]]], dtype=float32)
    >>> sigmoid_cross_entropy(jnp.zeros((1, 1, 1, 3)), jnp.array([[[[1, 0, 255]]]])).round(2)
    Array([[[[0.69, 0.69, 0.  ]]]], dtype=float32)

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x; `pos_weight` is that of
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html, with equal values.
    """
    targets = read_one_vs_rest(logits, labels, ignore_index)
    loss = _sigmoid_loss(targets, class_weights, label_smoothing, pos_weight)
    return loss.reshape(jnp.shape(labels)) if loss.shape[-1] == 1 else loss


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
    pos_weight: float | Array = 1.0,
    per_image: bool = False,
) -> Array:
    r"""The mean cross-entropy over the global batch: of a softmax, or of sigmoids.

    $$ L = \sum_i l_i \Big/ \sum_i w_i $$

    over the pixels that are not ignored, with $w_i$ the weight of the class of pixel i. This is torch's rule for class ids:
    a weight scales a pixel in the numerator and in the denominator. With multilabel targets the sums run over single
    entries.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids, multilabel or soft targets: see `jaxseg.losses.targets`.
        ignore_index: The label of ignored pixels and entries, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, not negative; ones by default.
        label_smoothing: The part of the target that is spread over all classes, in `[0, 1]`.
        pos_weight: For sigmoids only: the factor of the loss of label 1.
        per_image: Whether to average the means of the images instead of pooling their pixels.

    Returns:
        A scalar, float32 or wider; 0 with a zero gradient if every pixel is ignored. The mean is over pixels, not over classes:
        absent classes have no term.

    Raises:
        InputError: If shapes do not match, `label_smoothing` is outside `[0, 1]`, or `pos_weight` is passed for a softmax.

    >>> logits = jnp.array([[[[0.0, 0.0], [9.0, 9.0]]]])
    >>> cross_entropy(logits, jnp.array([[[1, 255]]])).round(2)
    Array(0.69, dtype=float32)

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
        For soft labels torch divides by the number of pixels, whatever the weights; here the weight of a pixel is the mean
        of the class weights under its probabilities, so that class ids and their one-hot form have the same loss.
    """
    targets = read_targets(logits, labels, ignore_index)
    if targets.sigmoid:
        loss = _sigmoid_loss(targets, class_weights, label_smoothing, pos_weight)
    elif _is_set(pos_weight):
        raise InputError("pos_weight applies to sigmoids; for a softmax use class_weights")
    else:
        loss = _softmax_loss(targets, class_weights, label_smoothing)
    return mean_over_pixels(loss, pixel_weights(targets, class_weights), per_image=per_image)


class PixelTerms(NamedTuple):
    """The terms of losses that re-weight or select pixels by the probability of their label.

    Attributes:
        nll: $-\\log$ of the probability of the label, `[N, H, W]` for a softmax, `[N, H, W, K]` for sigmoids.
        weights: The weight of the label's class, the shape of `nll`; 0 where ignored.
        positive: Bool, the shape of `nll`, for sigmoids: whether the label is 1.
    """

    nll: Array
    weights: Array
    positive: Array


def pixel_terms(targets: Targets, class_weights: ClassWeights | None) -> PixelTerms:
    """Returns the negative log-probability and the weight of each label.

    Raises:
        InputError: If the labels are soft: these losses need one label for each pixel or entry.
    """
    weights = pixel_weights(targets, class_weights)
    if targets.sigmoid:
        positive = 2 * targets.labels > 1  # 1, or a probability above 1/2
        return PixelTerms(nll_of_binary_labels(targets.logits, positive), weights, positive)
    if targets.labels.ndim == 4:
        raise InputError(
            "this loss needs integer labels, one for each pixel, not probabilities of classes"
        )
    return PixelTerms(nll_of_labels(targets.logits, targets.labels), weights, targets.in_range)


def pixel_weights(targets: Targets, class_weights: ClassWeights | None) -> Array:
    """Returns the class weight of each pixel, `[N, H, W]`, or of each sigmoid, `[N, H, W, K]`; 0 where ignored."""
    num_classes, dtype = targets.logits.shape[-1], targets.logits.dtype
    if class_weights is None:
        return targets.valid.astype(dtype)
    weights = check_class_weights(class_weights, num_classes, dtype)
    if num_classes == 1:
        of_pixel = weights[0] + (weights[1] - weights[0]) * targets.labels.astype(dtype)
    elif targets.sigmoid:
        of_pixel = jnp.broadcast_to(weights, targets.valid.shape)
    elif targets.labels.ndim == 4:
        of_pixel = (targets.labels * weights[None, None, None]).sum(-1)
    else:
        of_pixel = weights[targets.labels]
    return jnp.where(targets.valid, of_pixel, 0)


def _softmax_loss(targets: Targets, class_weights: ClassWeights | None, smoothing: float) -> Array:
    _check_smoothing(smoothing)
    logits, labels = targets.logits, targets.labels
    num_classes, dtype = logits.shape[-1], logits.dtype
    if labels.dtype == jnp.int32:
        if not smoothing:
            return pixel_weights(targets, class_weights) * nll_of_labels(logits, labels)
        labels = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    weights = check_class_weights(class_weights, num_classes, dtype)
    target = _per_class(weights) * ((1 - smoothing) * labels + smoothing / num_classes)
    return jnp.where(targets.valid, nll_of_distribution(logits, target), 0)


def _sigmoid_loss(
    targets: Targets,
    class_weights: ClassWeights | None,
    smoothing: float,
    pos_weight: float | Array,
) -> Array:
    _check_smoothing(smoothing)
    num_classes, dtype = targets.logits.shape[-1], targets.logits.dtype
    if jnp.shape(pos_weight) not in ((), (num_classes,)):
        raise InputError(
            f"pos_weight must be a number or one for each of {num_classes} classes, not {jnp.shape(pos_weight)}"
        )
    if targets.labels.dtype == jnp.int32 and not smoothing and not _is_set(pos_weight):
        terms = pixel_terms(targets, class_weights)
        return terms.weights * terms.nll
    weights = check_class_weights(class_weights, num_classes, dtype)
    of_negative, of_positive = weights if num_classes == 1 else (weights, weights)
    target = (1 - smoothing) * targets.labels.astype(dtype) + smoothing / 2
    loss = nll_of_binary_distribution(
        targets.logits,
        _per_class(of_positive * jnp.asarray(pos_weight, dtype)) * target,
        _per_class(of_negative) * (1 - target),
    )
    return jnp.where(targets.valid, loss, 0)


def _is_set(pos_weight: float | Array) -> bool:
    return not isinstance(pos_weight, float | int) or pos_weight != 1


def _per_class(weights: Array) -> Array:
    """Reshapes `[K]` or `[]` to `[1, 1, 1, K]`."""
    return weights.reshape(1, 1, 1, -1)


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing <= 1:
        raise InputError(f"label_smoothing is {smoothing}, it must be in [0, 1]")


LOSSES = {
    "cross_entropy": cross_entropy,
}
