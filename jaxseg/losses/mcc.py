"""The Matthews correlation loss: it looks at the true negatives as well, which Dice and Jaccard do not."""

import jax.numpy as jnp

from jaxseg import collective
from jaxseg.ignored import Ignored
from jaxseg.losses.reduce import sums, sums_per_image, weighted_mean
from jaxseg.losses.region import check_not_negative, region_weights
from jaxseg.losses.targets import ClassWeights, read_soft_masks
from jaxseg.typing import Array


def mcc_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    smooth: float = 1e-5,
    per_image: bool = False,
) -> Array:
    r"""One minus the soft Matthews correlation coefficient of each class against the rest, averaged over classes.

    $$ l_c = 1 - \frac{\mathrm{TP}\, \mathrm{TN} - \mathrm{FP}\, \mathrm{FN}}
    {\sqrt{(\mathrm{TP} + \mathrm{FP}) (\mathrm{TP} + \mathrm{FN}) (\mathrm{TN} + \mathrm{FP}) (\mathrm{TN} + \mathrm{FN})}} $$

    with $\mathrm{TP} = \sum_i p_{ic} y_{ic} + s$, $\mathrm{TN} = \sum_i (1 - p_{ic}) (1 - y_{ic}) + s$ and so on.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes. For K = 1 there is one term and nothing to weigh.
        smooth: $s$, not negative, which is added to each of the four.
        per_image: Whether sums run over each image by itself.

    Returns:
        A scalar in `[0, 2]`, float32 or wider. An absent class, that no pixel or every pixel has, is left out of the
        mean: its correlation is 0 / 0.

    Raises:
        InputError: Shapes do not fit, or `smooth` is negative.

    >>> logits = jnp.array([[[[20.0, -20.0], [-20.0, 20.0]]]])
    >>> labels = jnp.array([[[0, 1]]])
    >>> mcc_loss(logits, labels).round(2), mcc_loss(-logits, labels).round(2)
    (Array(0., dtype=float32), Array(2., dtype=float32))

    References:
        Abhishek and Hamarneh, Matthews Correlation Coefficient Loss for Deep Convolutional Networks: Application to Skin
        Lesion Segmentation, 2021, https://arxiv.org/abs/2010.13454 (one class; segmentation_models.pytorch as well).
    """
    check_not_negative(smooth=smooth)
    masks = read_soft_masks(logits, labels, ignore_index)
    p, y, valid = masks.probabilities, masks.truth, masks.valid
    parts = tuple(
        jnp.where(valid, part, 0) for part in (p * y, (1 - p) * (1 - y), p * (1 - y), (1 - p) * y)
    )
    tp, tn, fp, fn = sums_per_image(parts) if per_image else collective.psum(sums(parts))
    both = (tp + fn != 0) & (tn + fp != 0)
    # SoftMasks of all pixels: the product of four counts does not fit into float32.
    total = jnp.where(both, tp + tn + fp + fn, 1)
    tp, tn, fp, fn = (jnp.where(both, (x + smooth) / total, 1) for x in (tp, tn, fp, fn))
    predicted, true = (tp + fp) * (tn + fn), (tp + fn) * (tn + fp)
    defined = predicted * true != 0
    product = jnp.sqrt(jnp.where(defined, predicted, 1)) * jnp.sqrt(jnp.where(defined, true, 1))
    loss = 1 - jnp.where(defined, tp * tn - fp * fn, 0) / product
    weights = jnp.broadcast_to(region_weights(class_weights, masks), loss.shape)
    return weighted_mean(loss, jnp.where(both, weights, 0))


LOSSES = {
    "mcc": mcc_loss,
}
