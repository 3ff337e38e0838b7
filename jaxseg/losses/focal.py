"""Cross-entropies that turn to the pixels that are still wrong: focal and poly losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.losses.columns import mean_of
from jaxseg.losses.nll import power
from jaxseg.losses.pixelwise import Entries, entries
from jaxseg.losses.targets import (
    ClassWeights,
    Targets,
    checked_class_weights,
    read,
    read_one_against_rest,
)
from jaxseg.typing import Array


def softmax_focal_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    gamma: float = 2.0,
) -> Array:
    r"""The focal loss of a softmax, of each pixel: a cross-entropy that fades where the label is probable already.

    $$ l = w_y (1 - p_y)^\gamma (-\log p_y) $$

    Args:
        logits: `[N, H, W, K]`, any floating type, K >= 2.
        labels: `[N, H, W]`, any integer type: `0..K-1` or `ignore_index`.
        ignore_index: The label of pixels that count for nothing; any integer, negative ones too.
        class_weights: `[K]`, not negative; ones by default. They stand for the paper's $\alpha$.
        gamma: $\gamma$, not negative; 0 makes it the cross-entropy.

    Returns:
        `[N, H, W]`, float32 or wider; 0 at ignored pixels. Absent classes have no term of their own.

    Raises:
        InputError: Shapes do not fit, K is 1, or `gamma` is negative.

    >>> softmax_focal_loss(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]])).round(2)
    Array([[[0.17, 0.  ]]], dtype=float32)

    References:
        Lin, Goyal, Girshick, He and Dollar, Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
        (there of sigmoids).
    """
    targets = read(logits, labels, ignore_index)
    if targets.sigmoid:
        raise InputError("a softmax needs 2 classes or more; otherwise take sigmoid_focal_loss")
    return _recomputed(_focal, targets, class_weights, gamma, None)


def sigmoid_focal_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
) -> Array:
    r"""The focal loss of sigmoids, of each pixel and class.

    With $p_t$ the probability of the label, and $\alpha_t = \alpha$ for label 1 and $1 - \alpha$ for label 0,

    $$ l = w\, \alpha_t (1 - p_t)^\gamma (-\log p_t) $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: For K = 1 `[N, H, W]`: 0, 1 or `ignore_index`. For more, multilabel `[N, H, W, K]` of the same, or class ids
            `[N, H, W]`: then each class stands against the rest, as RetinaNet and segmentation_models.pytorch have it.
        ignore_index: The label of what counts for nothing; any integer, negative ones too.
        class_weights: `[2]`, of label 0 and of label 1, for K = 1; `[K]` for more. Not negative, ones by default.
        gamma: $\gamma$, not negative; 0 makes it the cross-entropy.
        alpha: $\alpha$ in `[0, 1]`; None for no such factor.

    Returns:
        The labels' shape for K = 1, `[N, H, W, K]` for more; float32 or wider; 0 where ignored. A class that is absent is
        one whose labels are all 0, and counts. Equal to torchvision's `sigmoid_focal_loss(reduction="none")`.

    Raises:
        InputError: Shapes do not fit, `gamma` is negative, or `alpha` outside `[0, 1]`.

    >>> sigmoid_focal_loss(jnp.zeros((1, 1, 2, 1)), jnp.array([[[1, 255]]])).round(3)
    Array([[[0.043, 0.   ]]], dtype=float32)

    References:
        Lin, Goyal, Girshick, He and Dollar, Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
    """
    targets = read_one_against_rest(logits, labels, ignore_index)
    loss = _recomputed(_focal, targets, class_weights, gamma, alpha)
    return loss.reshape(jnp.shape(labels)) if loss.shape[-1] == 1 else loss


def focal_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
    per_image: bool = False,
) -> Array:
    r"""The mean focal loss of what is counted, over the global batch: of a softmax, or of sigmoids.

    $\sum_i l_i / \sum_i w_i$, as `cross_entropy`.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, not negative; ones by default.
        gamma: $\gamma$, not negative.
        alpha: Of sigmoids only: the weight of label 1, and one minus that of label 0; None for no such factor.
        per_image: Whether each image has a mean of its own, and those are averaged.

    Returns:
        A scalar, float32 or wider; 0 with a zero gradient when every pixel is ignored. Pixels are averaged, not classes, so
        that absent ones have no term of their own.

    Raises:
        InputError: Shapes do not fit, `gamma` is negative, `alpha` outside `[0, 1]` or given for a softmax.

    >>> round(float(focal_loss(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]]))), 3)
    0.173

    References:
        Lin et al., 2017, https://arxiv.org/abs/1708.02002, divide by the number of boxes; over pixels every one counts.
    """
    if alpha is not None and not read(logits, labels, ignore_index).sigmoid:
        raise InputError("alpha is of sigmoids; for a softmax take class_weights")
    options = _focal, ignore_index, gamma, alpha
    return _mean(options, logits, labels, class_weights, per_image)


def poly_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    class_weights: ClassWeights | None = None,
    epsilon: float = 1.0,
    per_image: bool = False,
) -> Array:
    r"""The mean Poly-1 loss: the first term of the cross-entropy's series in $1 - p_t$ counts $1 + \epsilon$ times.

    $$ l = w_y (-\log p_y + \epsilon (1 - p_y)) $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing; any integer, negative ones too.
        class_weights: `[max(K, 2)]`, not negative; ones by default.
        epsilon: $\epsilon$, -1 or more; 0 makes it the cross-entropy.
        per_image: Whether each image has a mean of its own, and those are averaged.

    Returns:
        A scalar, float32 or wider, $\sum_i l_i / \sum_i w_i$ over the global batch; 0 with a zero gradient when every pixel is
        ignored. Pixels are averaged, not classes, so that absent ones have no term of their own.

    Raises:
        InputError: Shapes do not fit, or `epsilon` is below -1.

    >>> round(float(poly_loss(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]]))), 3)
    1.193

    References:
        Leng, Tan, Liu, Cubuk, Shi, Cheng and Anguelov, PolyLoss: A Polynomial Expansion Perspective of Classification
        Loss Functions, 2022, https://arxiv.org/abs/2204.12511
    """
    if not -1 <= epsilon < float("inf"):
        raise InputError(f"epsilon is {epsilon}: below -1 the loss would reward mistakes")
    return _mean((_poly, ignore_index, epsilon), logits, labels, class_weights, per_image)


def _mean(
    options: tuple,
    logits: Array,
    labels: Array,
    class_weights: ClassWeights | None,
    per_image: bool,
) -> Array:
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    read(logits, labels, options[1])  # raises with the shapes as they were given
    weights = checked_class_weights(class_weights, logits)
    return mean_of(_terms, options, logits, labels, weights, per_image=per_image)


def _terms(
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    formula: Callable[..., Array],
    ignore_index: int,
    *options: float | None,
) -> tuple[Array, Array]:
    """The loss and the weight of each entry."""
    entry = entries(read(logits, labels, ignore_index), class_weights)
    return formula(entry, *options), entry.weights


def _recomputed(
    formula: Callable[..., Array],
    targets: Targets,
    class_weights: ClassWeights | None,
    *options: float | None,
) -> Array:
    """A formula of each entry whose derivative starts from the logits again and keeps nothing in memory."""

    @jax.checkpoint
    def loss(logits: Array) -> Array:
        return formula(entries(targets._replace(logits=logits), class_weights), *options)

    return loss(targets.logits)


def _focal(entry: Entries, gamma: float, alpha: float | None) -> Array:
    if not 0 <= gamma < float("inf"):
        raise InputError(f"gamma is {gamma}, it must be finite and not negative")
    if alpha is not None and not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}, it is a share in [0, 1] or None")
    loss = entry.weights * power(_improbability(entry.nll), gamma) * entry.nll
    return loss if alpha is None else loss * jnp.where(entry.positive, alpha, 1 - alpha)


def _poly(entry: Entries, epsilon: float) -> Array:
    return entry.weights * (entry.nll + epsilon * _improbability(entry.nll))


def _improbability(nll: Array) -> Array:
    """$1 - p$ without cancellation where p is nearly 1."""
    return -jnp.expm1(-nll)
