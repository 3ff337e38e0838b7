"""Cross-entropies: logits and labels to a loss of each pixel `[N, H, W]`, and their mean.

`jaxseg.losses.targets` says which labels are read how, what ignoring means and what a wrong label does.

Where only the mean is wanted take `cross_entropy`: it keeps no map, neither of the loss nor of what its gradient needs.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.losses.columns import mean_of
from jaxseg.losses.nll import nll_of_distribution, nll_of_labels, softplus, widen
from jaxseg.losses.targets import (
    ClassWeights,
    Targets,
    check_class_weights,
    checked_class_weights,
    read,
    read_one_against_rest,
)
from jaxseg.typing import Array


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
) -> Array:
    r"""The cross-entropy of a softmax, of each pixel.

    $$ l = (1 - \epsilon) \sum_c y_c\, w_c\, (-\log p_c) + \frac{\epsilon}{K} \sum_c w_c\, (-\log p_c) $$

    Args:
        logits: `[N, H, W, K]`, any floating type, K >= 2.
        labels: `[N, H, W]` integers: `0..K-1` or `ignore_index`; or shares of classes $y_c$, `[N, H, W, K]`, floating,
            which carry no gradient.
        ignore_index: The label of pixels that count for nothing; any integer, negative ones too.
        class_weights: `[K]`, not negative; ones by default.
        label_smoothing: $\epsilon$ in `[0, 1]`, the share of the target that is spread over all classes.

    Returns:
        `[N, H, W]`, float32 or wider; 0 at ignored pixels. Absent classes have no term of their own. Equal to torch's
        `cross_entropy(reduction="none")`.

    Raises:
        InputError: Shapes do not fit, K is 1, or the smoothing is outside `[0, 1]`.

    >>> logits = jnp.array([[[[0.0, 0.0], [9.0, 9.0]]]])
    >>> softmax_cross_entropy(logits, jnp.array([[[1, 255]]])).round(2)
    Array([[[0.69, 0.  ]]], dtype=float32)

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, Rethinking the Inception Architecture for Computer Vision (label
        smoothing), 2016, https://arxiv.org/abs/1512.00567
    """
    targets = read(logits, labels, ignore_index)
    if targets.sigmoid:
        raise InputError(
            "a softmax needs 2 classes or more, and class ids or floating shares of them; for one class and for "
            "multilabel targets take sigmoid_cross_entropy"
        )
    return _softmax(targets, class_weights, label_smoothing)


def sigmoid_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
    pos_weight: float | Array = 1.0,
) -> Array:
    r"""The cross-entropy of sigmoids, of each pixel and class.

    With $n_1 = -\log \sigma(z)$ and $n_0 = -\log (1 - \sigma(z))$, the target $y$ smoothed to
    $y' = (1 - \epsilon) y + \epsilon / 2$, and the weight of positives $\omega$,

    $$ l = w\, (\omega\, y' n_1 + (1 - y') n_0) $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: For K = 1 `[N, H, W]`: 0, 1 or `ignore_index`. For more, multilabel `[N, H, W, K]` of the same, or class ids
            `[N, H, W]`: then each class stands against the rest. Floating labels are shares in `[0, 1]`.
        ignore_index: The label of what counts for nothing; any integer, negative ones too.
        class_weights: `[2]`, of label 0 and of label 1, for K = 1; `[K]` for more. Not negative, ones by default.
        label_smoothing: $\epsilon$ in `[0, 1]`.
        pos_weight: $\omega$, a number or `[K]`, as in torch; unlike a class weight it does not enter the mean's denominator.

    Returns:
        The labels' shape for K = 1, `[N, H, W, K]` for more; float32 or wider; 0 where ignored. A class that is absent is
        one whose labels are all 0, and counts.

    Raises:
        InputError: Shapes do not fit, or the smoothing is outside `[0, 1]`.

    >>> sigmoid_cross_entropy(jnp.array([[[[0.0], [9.0]]]]), jnp.array([[[1, 255]]])).round(2)
    Array([[[0.69, 0.  ]]], dtype=float32)
    >>> sigmoid_cross_entropy(jnp.zeros((1, 1, 1, 3)), jnp.array([[[[1, 0, 255]]]])).round(2)
    Array([[[[0.69, 0.69, 0.  ]]]], dtype=float32)

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x; `pos_weight` is that of
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html, and for one label equal to it.
    """
    targets = read_one_against_rest(logits, labels, ignore_index)
    loss = _sigmoid(targets, class_weights, label_smoothing, pos_weight)
    return loss.reshape(jnp.shape(labels)) if loss.shape[-1] == 1 else loss


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
    pos_weight: float | Array = 1.0,
    per_image: bool = False,
) -> Array:
    r"""The mean cross-entropy of what is counted, over the global batch: of a softmax, or of sigmoids.

    $\sum_i l_i / \sum_i w_i$ over the pixels that are not ignored, $w_i$ being the weight of the pixel's class. That is
    torch's rule for class ids: weights change what a pixel counts, in the numerator and in the denominator. Entries of
    multilabel targets count one by one.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids, multilabel or soft targets: see `jaxseg.losses.targets`.
        ignore_index: The label of what counts for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, not negative; ones by default.
        label_smoothing: The share of the target that is spread over all classes, in `[0, 1]`.
        pos_weight: Of sigmoids only: multiplies the loss of label 1.
        per_image: Whether each image has a mean of its own, and those are averaged.

    Returns:
        A scalar, float32 or wider; 0 with a zero gradient when every pixel is ignored. Pixels are averaged, not classes, so
        that absent ones have no term of their own.

    Raises:
        InputError: Shapes do not fit, the smoothing is outside `[0, 1]`, or there is a `pos_weight` for a softmax.

    >>> logits = jnp.array([[[[0.0, 0.0], [9.0, 9.0]]]])
    >>> cross_entropy(logits, jnp.array([[[1, 255]]])).round(2)
    Array(0.69, dtype=float32)

    References:
        Good, Rational Decisions, 1952, https://doi.org/10.1111/j.2517-6161.1952.tb00104.x
        torch divides by the number of pixels, whatever the weights, where targets are shares of classes; here a pixel
        counts the weights of its shares, so that class ids and their one-hot form have one mean.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    softmax = not read(logits, labels, ignore_index).sigmoid
    if softmax and (not isinstance(pos_weight, float | int) or pos_weight != 1):
        raise InputError("pos_weight is of sigmoids; for a softmax take class_weights")
    constants = checked_class_weights(class_weights, logits), jnp.asarray(pos_weight)
    options = ignore_index, label_smoothing
    return mean_of(_cross_entropy, options, logits, labels, constants, per_image=per_image)


def _cross_entropy(
    logits: Array, labels: Array, constants: tuple, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    """The loss and the weight of each entry."""
    class_weights, pos_weight = constants
    targets = read(logits, labels, ignore_index)
    if targets.sigmoid:
        loss = _sigmoid(targets, class_weights, label_smoothing, pos_weight)
    else:
        loss = _softmax(targets, class_weights, label_smoothing)
    return loss, entry_weights(targets, class_weights)


class Entries(NamedTuple):
    """What each softmax or sigmoid says of its label: the base of the losses that re-weight or select.

    Attributes:
        nll: `[N, H, W]` of a softmax, `[N, H, W, K]` of sigmoids: $-\\log$ of the probability of the label; 0 where ignored.
        weights: Likewise: the weight of the label's class; 0 where ignored.
        positive: Likewise, of sigmoids: whether the label is 1.
    """

    nll: Array
    weights: Array
    positive: Array


def entries(targets: Targets, class_weights: ClassWeights | None) -> Entries:
    """Negative log-probability and weight of each label.

    Raises:
        InputError: Labels are shares: these losses need one label for each entry.
    """
    weights = entry_weights(targets, class_weights)
    if targets.sigmoid:
        positive = targets.labels > 0.5
        loss = softplus(_signed(targets, positive))
        return Entries(_marked(loss, targets), weights, positive)
    if targets.labels.ndim == 4:
        raise InputError(
            "this loss needs integer labels, one for each pixel, not shares of classes"
        )
    loss = nll_of_labels(targets.logits, targets.labels, targets.usable)
    return Entries(_marked(loss, targets), weights, targets.usable)


def entry_weights(targets: Targets, class_weights: ClassWeights | None) -> Array:
    """The weight of each pixel, `[N, H, W]`, or of each sigmoid, `[N, H, W, K]`: that of its class; 0 where ignored."""
    num_classes, dtype = targets.logits.shape[-1], widen(targets.logits).dtype
    weights = check_class_weights(class_weights, num_classes, dtype)
    if class_weights is None:
        return targets.counted.astype(dtype)
    if num_classes > 1 and targets.sigmoid:
        own = jnp.broadcast_to(weights, targets.counted.shape)
    elif num_classes > 1 and targets.labels.ndim == 4:
        own = (targets.labels * _along(weights, 4)).sum(-1)
    elif num_classes > 2:
        own = weights[targets.labels]
    else:  # the same without a lookup, which XLA would keep in memory
        own = weights[0] + (weights[1] - weights[0]) * targets.labels.astype(dtype)
    return jnp.where(targets.counted, own, 0)


def _softmax(targets: Targets, class_weights: ClassWeights | None, smoothing: float) -> Array:
    _check_smoothing(smoothing)
    num_classes, dtype = targets.logits.shape[-1], widen(targets.logits).dtype
    weights = _along(check_class_weights(class_weights, num_classes, dtype), 4)
    if targets.labels.ndim == 4:
        loss = nll_of_distribution(targets.logits, targets.labels * weights, targets.usable)
    else:
        loss = nll_of_labels(targets.logits, targets.labels, targets.usable)
        loss *= entry_weights(targets, class_weights)
    if smoothing:
        uniform = weights / num_classes
        spread = nll_of_distribution(targets.logits, uniform, targets.usable)
        loss = (1 - smoothing) * loss + smoothing * spread
    return _marked(loss, targets)


def _sigmoid(
    targets: Targets,
    class_weights: ClassWeights | None,
    smoothing: float,
    pos_weight: float | Array,
) -> Array:
    _check_smoothing(smoothing)
    num_classes, dtype = targets.logits.shape[-1], widen(targets.logits).dtype
    if jnp.shape(pos_weight) not in ((), (num_classes,)):
        raise InputError(
            f"pos_weight is a number or one for each of {num_classes} classes, not {jnp.shape(pos_weight)}"
        )
    gain = jnp.broadcast_to(jnp.asarray(pos_weight, dtype), (num_classes,))
    weights = check_class_weights(class_weights, num_classes, dtype)
    negative, positive = weights if num_classes == 1 else (weights, weights)
    share = targets.labels * (1 - smoothing) + smoothing / 2
    scores = jnp.where(targets.usable, widen(targets.logits), 0)
    loss = _along(jnp.atleast_1d(positive) * gain, 4) * share * softplus(-scores)
    loss += _along(jnp.atleast_1d(negative), 4) * (1 - share) * softplus(scores)
    return _marked(loss, targets)


def _signed(targets: Targets, positive: Array) -> Array:
    """The logit of the label being wrong; 0 where there is no label to be wrong about."""
    wide = widen(targets.logits)
    return jnp.where(targets.usable, jnp.where(positive, -wide, wide), 0)


def _marked(loss: Array, targets: Targets) -> Array:
    """0 where ignored, not-a-number where the label is none."""
    loss = jnp.where(targets.usable, loss, jnp.nan)
    return jnp.where(targets.counted, loss, 0)


def _along(weights: Array, ndim: int) -> Array:
    """`[K]` as `[1, ..., K]`."""
    return weights.reshape((1,) * (ndim - 1) + weights.shape)


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing <= 1:
        raise InputError(f"label_smoothing is {smoothing}, it is a share in [0, 1]")
