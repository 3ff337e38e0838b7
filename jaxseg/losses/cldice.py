"""The soft clDice loss: the overlap of centrelines, for vessels, roads and other things whose connections matter."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.losses.reduce import sums, sums_per_image, weighted_mean
from jaxseg.losses.region import check_not_negative, region_weights
from jaxseg.losses.targets import ClassWeights, read_soft_masks
from jaxseg.typing import Array


def soft_cldice_loss(
    logits: Array,
    labels: Array,
    *,
    ignore_index: Ignored = 255,
    class_weights: ClassWeights | None = None,
    iterations: int = 3,
    smooth: float = 1.0,
    per_image: bool = False,
) -> Array:
    r"""One minus the harmonic mean of topology precision and sensitivity, averaged over the classes that are there.

    With $S(x)$ the soft skeleton of x, p the probability of a class and y its truth,

    $$ l = 1 - \frac{2 a b}{a + b}, \quad a = \frac{\sum S(p)\, y + s}{\sum S(p) + s}, \quad
    b = \frac{\sum S(y)\, p + s}{\sum S(y) + s} $$

    What is ignored is background to the skeletons.

    Args:
        logits: `[N, H, W, K]`, any floating type.
        labels: Class ids `[N, H, W]`, multilabel or soft targets `[N, H, W, K]`.
        ignore_index: The label of what counts for nothing, any integer; several such labels, or None for none.
        class_weights: `[max(K, 2)]`, the weights of the mean over classes: 0 for a background, whose centreline means nothing.
        iterations: How often the skeleton erodes; at least half the width of the widest line, in pixels.
        smooth: $s$, positive.
        per_image: Whether sums run over each image by itself.

    Returns:
        A scalar in `[0, 1]`, float32 or wider; absent classes, those without truth, are left out of the mean.

    Raises:
        InputError: Shapes do not fit, `iterations` is negative or `smooth` is not positive.

    >>> line = jnp.zeros((1, 5, 9), jnp.int32).at[:, 2].set(1)
    >>> soft_cldice_loss(jnp.where(line == 1, 20.0, -20.0)[..., None], line).round(2)
    Array(0., dtype=float32)

    References:
        Shit, Paetzold, Sekuboyina, Ezhov, Unger, Zhylka, Pluim, Bauer and Menze, clDice: a Novel Topology-Preserving Loss
        Function for Tubular Structure Segmentation, 2021, https://arxiv.org/abs/2003.07311. MONAI sums over all channels but
        the first before it divides; here every class has a ratio of its own.
    """
    check_not_negative(smooth=smooth)
    if iterations < 0 or smooth == 0:
        raise InputError(
            f"iterations is {iterations} and smooth {smooth}: none negative, smooth not 0, since a skeleton may be empty"
        )
    masks = read_soft_masks(logits, labels, ignore_index)
    p, y = masks.probabilities, masks.truth
    thin_p, thin_y = soft_skeleton(p, iterations), soft_skeleton(y, iterations)
    parts = (thin_p * y, thin_p, thin_y * p, thin_y, y)
    totals = sums_per_image(parts) if per_image else collective.psum(sums(parts))
    precise, found_skeleton, sensitive, true_skeleton, true = totals
    precision = (precise + smooth) / (found_skeleton + smooth)
    sensitivity = (sensitive + smooth) / (true_skeleton + smooth)
    loss = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    weights = jnp.broadcast_to(region_weights(class_weights, masks), loss.shape)
    return weighted_mean(loss, jnp.where(true != 0, weights, 0))


def soft_skeleton(x: Array, iterations: int) -> Array:
    r"""A differentiable centreline: the pixels that openings of ever more eroded forms remove.

    With $e_j(x)$ eroded j times and $o$ an opening, $S_j = S_{j-1} + (1 - S_{j-1}) (e_j(x) - o(e_j(x)))^+$.

    Args:
        x: `[N, H, W, K]` in `[0, 1]`; 0 where ignored, and all over for an absent class, whose skeleton is 0 too.
        iterations: How often to erode, 0 or more.

    Returns:
        `[N, H, W, K]` in `[0, 1]`.

    >>> bar = jnp.zeros((1, 5, 5, 1)).at[:, 1:4].set(1.0)
    >>> soft_skeleton(bar, 2)[0, :, 2, 0].tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0]

    References:
        Shit et al., clDice: a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation, 2021,
        https://arxiv.org/abs/2003.07311 (algorithm 1).
    """
    skeleton = jax.nn.relu(x - _dilate(_erode(x)))
    for _ in range(iterations):
        x = _erode(x)
        delta = jax.nn.relu(x - _dilate(_erode(x)))
        skeleton = skeleton + jax.nn.relu(delta - skeleton * delta)
    return skeleton


def _erode(x: Array) -> Array:
    """The smallest of a pixel and its four neighbours."""
    return jnp.minimum(-_largest(-x, (3, 1)), -_largest(-x, (1, 3)))


def _dilate(x: Array) -> Array:
    """The largest of a pixel and its eight neighbours."""
    return _largest(x, (3, 3))


def _largest(x: Array, window: tuple[int, int]) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, 1, 1, 1), "SAME")


LOSSES = {
    "soft_cldice": soft_cldice_loss,
}
