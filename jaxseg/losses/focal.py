"""Cross-entropies that emphasize pixels whose label is not probable yet: focal and poly losses."""

import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.losses.nll import power
from jaxseg.losses.pixelwise import PixelTerms, pixel_terms
from jaxseg.losses.reduce import mean_over_pixels
from jaxseg.losses.targets import ClassWeights, read_one_vs_rest, read_targets
from jaxseg.typing import Array


def softmax_focal_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    gamma: float = 2.0,
) -> Array:
    r"""The focal loss of a softmax at each pixel: a cross-entropy that fades where the label is already probable.

    $$ l = w_y (1 - p_y)^\gamma (-\log p_y) $$

    Args:
        logits: `[N, H, W, K]`, any floating type, K >= 2.
        labels: `[N, H, W]`, any integer type: `0..K-1` or `ignore_index`.
        ignore_index: The label of ignored pixels, any integer; several such labels, or None for none.
        class_weights: `[K]`, not negative; ones by default. They take the place of the paper's $\alpha$.
        gamma: $\gamma$, not negative; 0 gives the cross-entropy.

    Returns:
        `[N, H, W]`, float32 or wider; 0 at ignored pixels. Absent classes have no term.

    Raises:
        InputError: If shapes do not match, K is 1, or `gamma` is negative.

    >>> softmax_focal_loss(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]])).round(2)
    Array([[[0.17, 0.  ]]], dtype=float32)

    References:
        Lin, Goyal, Girshick, He and Dollar, Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
        (there for sigmoids).
    """
    targets = read_targets(logits, labels, ignore_index)
    if targets.sigmoid:
        raise InputError("a softmax needs 2 classes or more; otherwise use sigmoid_focal_loss")
    return _focal(pixel_terms(targets, class_weights), gamma, None)


def sigmoid_focal_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
) -> Array:
    r"""The focal loss of sigmoids at each pixel, for each class.

    With $p_t$ the probability of the label, and $\alpha_t = \alpha$ for label 1 and $1 - \alpha$ for label 0,

    $$ l = w\, \alpha_t (1 - p_t)^\gamma (-\log p_t) $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: For K = 1, `[N, H, W]` of 0, 1 or `ignore_index`. For K > 1, multilabel `[N, H, W, K]` of the same values, or
            class ids `[N, H, W]`, which are read as one class against the rest, as in RetinaNet and
            segmentation_models.pytorch.
        ignore_index: The label of ignored pixels and entries, any integer; several such labels, or None for none.
        class_weights: For K = 1, `[2]`, the weights of label 0 and label 1; otherwise `[K]`. Not negative, ones by default.
        gamma: $\gamma$, not negative; 0 gives the cross-entropy.
        alpha: $\alpha$ in `[0, 1]`; None leaves out this factor.

    Returns:
        The shape of the labels for K = 1, `[N, H, W, K]` for K > 1; float32 or wider; 0 where ignored. The labels of an absent
        class are all 0 and contribute as such. Equal to torchvision's `sigmoid_focal_loss(reduction="none")`.

    Raises:
        InputError: If shapes do not match, `gamma` is negative, or `alpha` is outside `[0, 1]`.

    >>> sigmoid_focal_loss(jnp.zeros((1, 1, 2, 1)), jnp.array([[[1, 255]]])).round(3)
    Array([[[0.043, 0.   ]]], dtype=float32)

    References:
        Lin, Goyal, Girshick, He and Dollar, Focal Loss for Dense Object Detection, 2017, https://arxiv.org/abs/1708.02002
    """
    targets = read_one_vs_rest(logits, labels, ignore_index)
    loss = _focal(pixel_terms(targets, class_weights), gamma, alpha)
    return loss.reshape(jnp.shape(labels)) if loss.shape[-1] == 1 else loss


def focal_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
    per_image: bool = False,
) -> Array:
    r"""The mean focal loss over the global batch: of a softmax, or of sigmoids.

    $$ L = \sum_i l_i \Big/ \sum_i w_i $$

    with $l_i$ of `softmax_focal_loss` or `sigmoid_focal_loss`, over the pixels or entries that are not ignored.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`.
        ignore_index: The label of ignored pixels and entries, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, not negative; ones by default.
        gamma: $\gamma$, not negative.
        alpha: For sigmoids only: the factor of label 1, and one minus that of label 0; None leaves out this factor.
        per_image: Whether to average the means of the images instead of pooling their pixels.

    Returns:
        A scalar, float32 or wider; 0 with a zero gradient if every pixel is ignored. The mean is over pixels, not over classes:
        absent classes have no term.

    Raises:
        InputError: If shapes do not match, `gamma` is negative, `alpha` is outside `[0, 1]`, or passed for a softmax.

    >>> round(float(focal_loss(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]]))), 3)
    0.173

    References:
        Lin et al., 2017, https://arxiv.org/abs/1708.02002, who divide by the number of boxes instead of pixels.
    """
    targets = read_targets(logits, labels, ignore_index)
    if alpha is not None and not targets.sigmoid:
        raise InputError("alpha applies to sigmoids; for a softmax use class_weights")
    terms = pixel_terms(targets, class_weights)
    return mean_over_pixels(_focal(terms, gamma, alpha), terms.weights, per_image=per_image)


def poly_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    epsilon: float = 1.0,
    per_image: bool = False,
) -> Array:
    r"""The mean Poly-1 loss: a cross-entropy with $\epsilon$ more of the first term of its series in $1 - p_y$.

    $$ L = \sum_i l_i \Big/ \sum_i w_i, \qquad l = w_y (-\log p_y + \epsilon (1 - p_y)) $$

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, or multilabel targets `[N, H, W, K]`.
        ignore_index: The label of ignored pixels and entries, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, not negative; ones by default.
        epsilon: $\epsilon$, at least -1; 0 gives the cross-entropy.
        per_image: Whether to average the means of the images instead of pooling their pixels.

    Returns:
        A scalar, float32 or wider; 0 with a zero gradient if every pixel is ignored. The mean is over pixels, not over classes:
        absent classes have no term.

    Raises:
        InputError: If shapes do not match, or `epsilon` is below -1.

    >>> round(float(poly_loss(jnp.zeros((1, 1, 2, 2)), jnp.array([[[1, 255]]]))), 3)
    1.193

    References:
        Leng, Tan, Liu, Cubuk, Shi, Cheng and Anguelov, PolyLoss: A Polynomial Expansion Perspective of Classification
        Loss Functions, 2022, https://arxiv.org/abs/2204.12511
    """
    if not -1 <= epsilon < float("inf"):
        raise InputError(f"epsilon is {epsilon}: below -1 the loss would reward mistakes")
    terms = pixel_terms(read_targets(logits, labels, ignore_index), class_weights)
    loss = terms.weights * (terms.nll + epsilon * _improbability(terms.nll))
    return mean_over_pixels(loss, terms.weights, per_image=per_image)


def _focal(terms: PixelTerms, gamma: float, alpha: float | None) -> Array:
    if not 0 <= gamma < float("inf"):
        raise InputError(f"gamma is {gamma}, it must be finite and not negative")
    if alpha is not None and not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}, it must be in [0, 1] or None")
    loss = power(_improbability(terms.nll), gamma) * terms.nll
    if alpha is not None:
        loss = jnp.where(terms.positive, alpha, 1 - alpha) * loss
    return terms.weights * loss


def _improbability(nll: Array) -> Array:
    """Returns $1 - p$ without cancellation where p is close to 1."""
    return -jnp.expm1(-nll)


LOSSES = {
    "focal": focal_loss,
    "poly": poly_loss,
}
