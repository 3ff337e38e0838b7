r"""Scores of boundaries by the pixels near them: boundary IoU and the boundary F-score, of each image and class.

Regions hide their borders: a large mask can lose every fine detail and keep its IoU. These scores look at pixels near
the boundary alone. What a mask is, what an edge pixel is, and what ignored pixels do, is said in `jaxseg.metrics.edges`.

Both are of one image each, as in their papers, so that splitting a batch changes nothing: `[N, max(K, 2)]`,
NaN where truth and prediction have no boundary of a class. The mean over images or classes is
`jnp.nanmean(scores, axis)`.
"""

import math

import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.metrics.edges import Masks, class_edges, count, near, score_classes, within
from jaxseg.typing import Array


def boundary_iou(
    *,
    labels: Array,
    predictions: Array,
    num_classes: int,
    ignore_index: Ignored = 255,
    dilation_ratio: float = 0.02,
) -> Array:
    r"""The intersection over union of what lies within d pixels of the boundary of each mask.

    $$\frac{|T_d \cap P_d|}{|T_d \cup P_d|}, \qquad d = \max(1, \mathrm{round}(r \sqrt{H^2 + W^2})),$$

    with $T_d$ the pixels of the true mask that its erosion by a square of side $2 d + 1$ takes away, and $P_d$ those of
    the predicted one. Beyond the image is outside; an ignored pixel is in no mask and takes nothing away, so what is
    within d pixels is measured across ignored ones.

    Args:
        labels: `[N, H, W]`, any integer type, the truth.
        predictions: `[N, H, W]`, any integer type, class ids, such as those returned by `labels_from_logits`.
        num_classes: K of the logits; 1 stands for one sigmoid, whose classes are 0 and 1.
        ignore_index: The label of pixels that are not counted, several, or None for none.
        dilation_ratio: r, the distance d in image diagonals; the paper has 0.02 for COCO and LVIS, and 0.005 for the
            larger images of Cityscapes.

    Returns:
        `[N, max(K, 2)]` floats; NaN where neither mask has a boundary, 0 where one has.

    Raises:
        InputError: Shapes, types or `num_classes` do not fit, or `dilation_ratio` is no positive number.

    >>> square = jnp.zeros((1, 8, 8), jnp.int32).at[0, 1:6, 1:6].set(1)
    >>> moved = jnp.roll(square, 1, axis=2)
    >>> scores = boundary_iou(labels=square, predictions=moved, num_classes=2)
    >>> print(scores[:, 1].round(4))
    [0.3333]

    References:
        Cheng, Girshick, Dollár, Berg and Kirillov, Boundary IoU: Improving Object-Centric Image Segmentation
        Evaluation, 2021, https://arxiv.org/abs/2103.16562. The authors' code has no ignored pixels; without them, and
        for one mask, this is what it computes.
    """
    if not 0 < dilation_ratio < math.inf:
        raise InputError(f"dilation_ratio is {dilation_ratio}, it must be a positive number")

    def score(masks: Masks, number: Array) -> Array:
        del number
        height, width = masks.true.shape[1:]
        reach = max(1, round(dilation_ratio * math.sqrt(height**2 + width**2)))
        true = masks.true & near(masks.outside_true, reach, square=True)
        predicted = masks.predicted & near(masks.outside_predicted, reach, square=True)
        return count(true & predicted) / count(true | predicted)

    return score_classes(
        score,
        labels=labels,
        predictions=predictions,
        num_classes=num_classes,
        ignore_index=ignore_index,
    )


def boundary_f_score(
    *,
    labels: Array,
    predictions: Array,
    num_classes: int,
    ignore_index: Ignored = 255,
    tolerance: float | None = None,
) -> Array:
    r"""The harmonic mean of how much of each edge is close to the other one (BF score, contour matching score).

    $$\frac{2 P R}{P + R}, \qquad P = \frac{|\{p \in B_P : d(p, B_T) \le \theta\}|}{|B_P|}, \qquad
    R = \frac{|\{t \in B_T : d(t, B_P) \le \theta\}|}{|B_T|},$$

    with $B_T$ and $B_P$ the edge pixels of the true and of the predicted mask, and d the Euclidean distance.

    Args:
        labels: `[N, H, W]`, any integer type, the truth.
        predictions: `[N, H, W]`, any integer type, class ids, such as those returned by `labels_from_logits`.
        num_classes: K of the logits; 1 stands for one sigmoid, whose classes are 0 and 1.
        ignore_index: The label of pixels that are not counted, several, or None for none; they are in no mask and make no edge.
        tolerance: $\theta$ in pixels; None is $0.0075 \sqrt{H^2 + W^2}$, as in the paper.

    Returns:
        `[N, max(K, 2)]` floats; NaN where neither mask has an edge, 0 where one has.

    Raises:
        InputError: Shapes, types or `num_classes` do not fit, or `tolerance` is negative or not finite.

    >>> square = jnp.zeros((1, 8, 8), jnp.int32).at[0, 1:6, 1:6].set(1)
    >>> moved = jnp.roll(square, 1, axis=2)
    >>> for tolerance in (0, 1):
    ...     scores = boundary_f_score(
    ...         labels=square, predictions=moved, num_classes=2, tolerance=tolerance
    ...     )
    ...     print(scores[:, 1])
    [0.5]
    [1.]

    References:
        Csurka, Larlus and Perronnin, What is a good evaluation measure for semantic segmentation?, 2013,
        https://doi.org/10.5244/C.27.32. The paper averages over the classes of an image, then over images; the edge
        pixels here are those inside the mask.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance}, it must be 0 or more pixels, and finite")

    def score(masks: Masks, number: Array) -> Array:
        del number
        height, width = masks.true.shape[1:]
        reach = 0.0075 * math.sqrt(height**2 + width**2) if tolerance is None else tolerance
        edges = class_edges(masks)
        right = count(within(edges, jnp.asarray(reach, edges.distances.dtype)))
        total = count(edges.pixels)
        recall, precision = right / jnp.maximum(total, jnp.ones_like(total))
        either = precision + recall
        f_score = 2 * precision * recall / jnp.where(either == 0, 1, either)
        return jnp.where(total.sum(0) == 0, jnp.nan, f_score)

    return score_classes(
        score,
        labels=labels,
        predictions=predictions,
        num_classes=num_classes,
        ignore_index=ignore_index,
    )
