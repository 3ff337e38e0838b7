"""Losses of one pixel each: logits `[N, H, W, K]` and labels `[N, H, W]` to `[N, H, W]`, and their mean.

Everywhere in this room:

- a pixel whose label is `ignore_index` counts for nothing, in the value and in the gradient, even where its logits are
  infinite or not a number;
- a label that is neither a class nor `ignore_index` makes the loss not-a-number: nothing can be raised under jit, and
  a plausible wrong number would go unseen. Loaders and the command line check labels on the host, with a message;
- values are computed in `promote_types(float32, logits.dtype)`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.errors import InputError
from jaxseg.losses.reduce import ratio_of_sums
from jaxseg.typing import Array

ClassWeights = Array | np.ndarray | Sequence[float]


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
) -> Array:
    r"""The cross-entropy of a softmax, of each pixel.

    $$ l = (1 - \epsilon)\, w_y\, (-\log p_y) + \frac{\epsilon}{K} \sum_c w_c\, (-\log p_c) $$

    Args:
        logits: `[N, H, W, K]`, any floating type, K >= 2.
        labels: `[N, H, W]`, any integer type: `0..K-1` or `ignore_index`.
        ignore_index: The label of pixels that count for nothing; any integer, negative ones too.
        class_weights: `[K]`, not negative; ones by default.
        label_smoothing: $\epsilon$ in `[0, 1]`, the share of the target that is spread over all classes.

    Returns:
        `[N, H, W]`, float32 or wider; 0 at ignored pixels. Equal to torch's `cross_entropy(reduction="none")`.

    Raises:
        InputError: Shapes do not fit, or K is 1.

    >>> logits = jnp.array([[[[0.0, 0.0], [9.0, 9.0]]]])
    >>> softmax_cross_entropy(logits, jnp.array([[[1, 255]]])).round(2)
    Array([[[0.69, 0.  ]]], dtype=float32)

    References:
        Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, Rethinking the Inception Architecture for Computer Vision (label
        smoothing), 2016, https://arxiv.org/abs/1512.00567
    """
    logits, labels, valid = mask_ignored(logits, labels, ignore_index)
    num_classes = logits.shape[-1]
    if num_classes < 2:
        raise InputError(
            "a softmax needs 2 classes or more; for one class take sigmoid_cross_entropy"
        )
    weights = check_class_weights(class_weights, num_classes, logits.dtype)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels) * weights[labels]
    if label_smoothing:
        uniform = jnp.broadcast_to(weights / num_classes, logits.shape)
        spread = optax.softmax_cross_entropy(logits, uniform)
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    return jnp.where(valid, loss, 0)


def sigmoid_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
    pos_weight: float = 1.0,
) -> Array:
    r"""The cross-entropy of one sigmoid, of each pixel: the softmax's with logits `(0, z)`.

    With $n_1 = -\log \sigma(z)$ and $n_0 = -\log (1 - \sigma(z))$, the negative logarithms of both classes,

    $$ l = (1 - \epsilon)\, w_y\, n_y + \frac{\epsilon}{2} (w_0 n_0 + w_1 n_1) $$

    Args:
        logits: `[N, H, W, 1]`, any floating type.
        labels: `[N, H, W]`, any integer type: 0, 1 or `ignore_index`.
        ignore_index: The label of pixels that count for nothing; any integer, negative ones too.
        class_weights: `[2]`, of label 0 and of label 1, not negative; ones by default.
        label_smoothing: $\epsilon$ in `[0, 1]`.
        pos_weight: Multiplies $n_1$, as in torch; unlike a class weight it does not enter the mean's denominator.

    Returns:
        `[N, H, W]`, float32 or wider; 0 at ignored pixels.

    Raises:
        InputError: Shapes do not fit, or K is not 1.

    >>> sigmoid_cross_entropy(jnp.array([[[[0.0], [9.0]]]]), jnp.array([[[1, 255]]])).round(2)
    Array([[[0.69, 0.  ]]], dtype=float32)
    """
    logits, labels, valid = mask_ignored(logits, labels, ignore_index)
    if logits.shape[-1] != 1:
        raise InputError(
            f"a sigmoid has 1 class, logits have {logits.shape[-1]}: take softmax_cross_entropy"
        )
    weights = check_class_weights(class_weights, 1, logits.dtype)
    positive = labels.astype(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    score = logits[..., 0]
    loss = weights[1] * pos_weight * positive * jax.nn.softplus(-score)
    loss += weights[0] * (1 - positive) * jax.nn.softplus(score)
    return jnp.where(valid, loss, 0)


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    label_smoothing: float = 0.0,
) -> Array:
    r"""The mean cross-entropy of the pixels that count, over the global batch: of a sigmoid for K = 1, of a softmax else.

    $\sum_i l_i / \sum_i w_{y_i}$ over the pixels that are not ignored, which is torch's rule: weights change what a
    pixel counts, in the numerator and in the denominator.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: `[N, H, W]`, any integer type: `0..max(K, 2)-1` or `ignore_index`.
        ignore_index: The label of pixels that count for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, not negative; ones by default.
        label_smoothing: The share of the target that is spread over all classes, in `[0, 1]`.

    Returns:
        A scalar, float32 or wider; 0 with a zero gradient when every pixel is ignored.

    Raises:
        InputError: Shapes do not fit.

    >>> logits = jnp.array([[[[0.0, 0.0], [9.0, 9.0]]]])
    >>> cross_entropy(logits, jnp.array([[[1, 255]]])).round(2)
    Array(0.69, dtype=float32)
    """
    num_classes = logits.shape[-1]
    pixelwise = sigmoid_cross_entropy if num_classes == 1 else softmax_cross_entropy
    loss = pixelwise(
        logits,
        labels,
        ignore_index=ignore_index,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
    )
    _, labels, valid = mask_ignored(logits, labels, ignore_index)
    weights = check_class_weights(class_weights, num_classes, loss.dtype)[labels]
    return ratio_of_sums(loss, jnp.where(valid, weights, 0))


def mask_ignored(logits: Array, labels: Array, ignore_index: int) -> tuple[Array, Array, Array]:
    """Logits and labels that are safe to compute with, and which pixels count.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: `[N, H, W]`, any integer type.
        ignore_index: The label of pixels that count for nothing.

    Returns:
        Logits in float32 or wider, with zeros at ignored pixels (so that nothing flows back through them) and
        not-a-number where the label is no class; int32 labels, all of them classes; a mask, true where a pixel counts.

    Raises:
        InputError: Shapes do not fit, or the types are not floating and integer.

    >>> logits, labels, valid = mask_ignored(jnp.full((1, 1, 2, 3), jnp.inf), jnp.array([[[2, 255]]]), 255)
    >>> logits[0, 0].tolist(), labels.tolist(), valid.tolist()
    ([[inf, inf, inf], [0.0, 0.0, 0.0]], [[[2, 0]]], [[[True, False]]])
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 4 or logits.shape[:-1] != labels.shape:
        raise InputError(
            f"logits {logits.shape} and labels {labels.shape} do not fit: they are [N, H, W, K] and [N, H, W]"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating) or not jnp.issubdtype(
        labels.dtype, jnp.integer
    ):
        raise InputError(
            f"logits are floating and labels integers, not {logits.dtype} and {labels.dtype}"
        )
    if jnp.finfo(logits.dtype).bits < 32:
        logits = logits.astype(jnp.float32)
    labels = labels.astype(jnp.int32)
    ignored = labels == ignore_index
    usable = ~ignored & (labels >= 0) & (labels < max(logits.shape[-1], 2))
    filler = jnp.where(ignored | usable, 0.0, jnp.nan).astype(logits.dtype)
    logits = jnp.where(usable[..., None], logits, filler[..., None])
    return logits, jnp.where(usable, labels, 0), ~ignored


def check_class_weights(class_weights: ClassWeights | None, num_classes: int, dtype) -> Array:
    """`[max(K, 2)]`, ones by default: a sigmoid's single class has a weight for each of its two labels."""
    expected = (max(num_classes, 2),)
    if class_weights is None:
        return jnp.ones(expected, dtype)
    if np.shape(class_weights) != expected:
        raise InputError(
            f"class_weights have shape {np.shape(class_weights)}, {num_classes} classes need {expected}"
        )
    if (
        not isinstance(class_weights, jax.Array)
        and not (np.isfinite(class_weights) & (np.asarray(class_weights) >= 0)).all()
    ):
        raise InputError(f"class_weights are finite and not negative, not {class_weights}")
    return jnp.asarray(class_weights, dtype)
