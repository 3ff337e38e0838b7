r"""Distances between the edges of truth and prediction: surface Dice, Hausdorff distance and their mean distance.

With $E_T$ and $E_P$ the edge pixels of the true and of the predicted mask of a class (`jaxseg.metrics.edges` says which
they are and what ignored pixels do), and d the Euclidean distance, exact, in units of `spacing`: every score reads

$$D_T = \{d(t, E_P) : t \in E_T\}, \qquad D_P = \{d(p, E_T) : p \in E_P\}.$$

They count an edge by its pixels, in two dimensions, as MONAI does; DeepMind's `surface-distance` weighs each by the
length of the edge in it. Scores are of one image each: `[N, max(K, 2)]`, NaN where neither mask has an edge.
Where only one has, distances are infinite: `jnp.nanmean` over images is then infinite too, so say what you do with them.
"""

from collections.abc import Sequence
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.errors import InputError
from jaxseg.ignored import Ignored
from jaxseg.metrics.edges import Masks, class_edges, count, score_classes, within
from jaxseg.typing import Array


def normalized_surface_dice(
    *,
    labels: Array,
    predictions: Array,
    num_classes: int,
    tolerance: float | Sequence[float],
    ignore_index: Ignored = 255,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Array:
    r"""The share of both edges that is within a tolerance of the other one (NSD, surface Dice).

    $$\frac{|\{d \in D_T : d \le \tau_c\}| + |\{d \in D_P : d \le \tau_c\}|}{|D_T| + |D_P|}$$

    Args:
        labels: `[N, H, W]`, any integer type, the truth.
        predictions: `[N, H, W]`, any integer type, class ids, such as those returned by `labels_from_logits`.
        num_classes: K of the logits; 1 stands for one sigmoid, whose classes are 0 and 1.
        tolerance: $\tau$ in units of `spacing`, one for all classes or `max(K, 2)` of them.
        ignore_index: The label of pixels that are not counted, several, or None for none; they are in no mask and make no edge.
        spacing: The height and the width of a pixel.

    Returns:
        `[N, max(K, 2)]` floats; NaN where neither mask has an edge, 0 where one has.

    Raises:
        InputError: Shapes, types, `num_classes` or `spacing` do not fit, or a tolerance is negative or not finite.

    >>> square = jnp.zeros((1, 8, 8), jnp.int32).at[0, 1:6, 1:6].set(1)
    >>> moved = jnp.roll(square, 1, axis=2)
    >>> for tolerance in (0, [0, 1]):
    ...     scores = normalized_surface_dice(
    ...         labels=square, predictions=moved, num_classes=2, tolerance=tolerance
    ...     )
    ...     print(scores[:, 1])
    [0.5]
    [1.]

    References:
        Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
        radiotherapy, 2018, https://arxiv.org/abs/1809.04430; Seidlitz et al., Robust deep learning-based semantic organ
        segmentation in hyperspectral images, 2021, https://arxiv.org/abs/2111.05408, which counts pixels, as here.
    """
    classes = max(num_classes, 2)
    tolerances = np.asarray(tolerance, float)
    known = (tolerances >= 0) & np.isfinite(tolerances)
    if tolerances.shape not in ((), (classes,)) or not known.all():
        raise InputError(
            f"tolerance is {tolerance}, it must be one or {classes} finite numbers, 0 or more"
        )

    def score(masks: Masks, number: Array) -> Array:
        edges = class_edges(masks, spacing)
        each = jnp.asarray(np.broadcast_to(tolerances, classes), edges.distances.dtype)
        right = within(edges, each[number])
        return count(right).sum(0) / count(edges.pixels).sum(0)

    return score_classes(
        score,
        labels=labels,
        predictions=predictions,
        num_classes=num_classes,
        ignore_index=ignore_index,
    )


def hausdorff_distance(
    *,
    labels: Array,
    predictions: Array,
    num_classes: int,
    ignore_index: Ignored = 255,
    percentile: float = 100.0,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Array:
    r"""The Hausdorff distance of edges, or a percentile of their distances: HD, and HD95 with `percentile=95`.

    $$\max(Q_q(D_T), Q_q(D_P)),$$

    with $Q_q$ the percentile q, between two distances linearly interpolated as NumPy does; $Q_{100}$ is the maximum.

    Args:
        labels: `[N, H, W]`, any integer type, the truth.
        predictions: `[N, H, W]`, any integer type, class ids, such as those returned by `labels_from_logits`.
        num_classes: K of the logits; 1 stands for one sigmoid, whose classes are 0 and 1.
        ignore_index: The label of pixels that are not counted, several, or None for none; they are in no mask and make no edge.
        percentile: q, from 0 to 100, of each direction by itself.
        spacing: The height and the width of a pixel, in the unit of the result.

    Returns:
        `[N, max(K, 2)]` floats; NaN where neither mask has an edge, infinite where one has.

    Raises:
        InputError: Shapes, types, `num_classes` or `spacing` do not fit, or `percentile` is not from 0 to 100.

    >>> line = jnp.zeros((1, 3, 8), jnp.int32).at[0, 1, 0:4].set(1)
    >>> longer = line.at[0, 1, 4:7].set(1)
    >>> for percentile in (100, 50):
    ...     scores = hausdorff_distance(
    ...         labels=line, predictions=longer, num_classes=2, percentile=percentile
    ...     )
    ...     print(scores[:, 1].tolist())
    [3.0]
    [0.0]

    References:
        Huttenlocher, Klanderman and Rucklidge, Comparing images using the Hausdorff distance, 1993,
        https://doi.org/10.1109/34.232073, whose ranks are single distances, not interpolated. HD95 also goes for the
        percentile of both directions together; here it is the larger of two, as in MONAI.
    """
    if not 0 <= percentile <= 100:
        raise InputError(f"percentile is {percentile}, it must be from 0 to 100")

    def score(masks: Masks, number: Array) -> Array:
        del number
        edges = class_edges(masks, spacing)
        missing = ~edges.pixels.any((-2, -1))
        worst = _quantile(edges.distances, edges.pixels, percentile).max(0)
        one_missing = jnp.where(missing.any(0), jnp.inf, worst)
        return jnp.where(missing.all(0), jnp.nan, one_missing)

    return score_classes(
        score,
        labels=labels,
        predictions=predictions,
        num_classes=num_classes,
        ignore_index=ignore_index,
    )


def average_symmetric_surface_distance(
    *,
    labels: Array,
    predictions: Array,
    num_classes: int,
    ignore_index: Ignored = 255,
    spacing: tuple[float, float] = (1.0, 1.0),
) -> Array:
    r"""The mean distance of a pixel on either edge to the other edge (ASSD), over both edges together.

    $$\frac{\sum_{d \in D_T} d + \sum_{d \in D_P} d}{|D_T| + |D_P|}$$

    Args:
        labels: `[N, H, W]`, any integer type, the truth.
        predictions: `[N, H, W]`, any integer type, class ids, such as those returned by `labels_from_logits`.
        num_classes: K of the logits; 1 stands for one sigmoid, whose classes are 0 and 1.
        ignore_index: The label of pixels that are not counted, several, or None for none; they are in no mask and make no edge.
        spacing: The height and the width of a pixel, in the unit of the result.

    Returns:
        `[N, max(K, 2)]` floats; NaN where neither mask has an edge, infinite where one has.

    Raises:
        InputError: Shapes, types, `num_classes` or `spacing` do not fit.

    >>> line = jnp.zeros((1, 3, 8), jnp.int32).at[0, 1, 0:4].set(1)
    >>> longer = line.at[0, 1, 4:7].set(1)
    >>> scores = average_symmetric_surface_distance(labels=line, predictions=longer, num_classes=2)
    >>> print(scores[:, 1].round(4))  # 1 + 2 + 3, over 4 + 7 pixels
    [0.5455]

    References:
        Heimann et al., Comparison and evaluation of methods for liver segmentation from CT datasets, 2009,
        https://doi.org/10.1109/TMI.2009.2013851. The mean of the two directions' means goes by this name too; this one
        is theirs, and that of MONAI's `symmetric=True`.
    """

    def score(masks: Masks, number: Array) -> Array:
        del number
        edges = class_edges(masks, spacing)
        distances = jnp.where(edges.pixels, edges.distances, 0)
        return distances.sum((0, -2, -1)) / count(edges.pixels).sum(0)

    return score_classes(
        score,
        labels=labels,
        predictions=predictions,
        num_classes=num_classes,
        ignore_index=ignore_index,
    )


def _quantile(values: Array, among: Array, percentile: float) -> Array:
    r"""The percentile of the values `among` which it is asked, `[..., H, W]` to `[...]`; anything where there are none.

    Floats that are not negative are in the order of their bits. So the value of rank k is found bit by bit from counts
    alone, without sorting a whole image, and its rank from integers, which are exact where $q (n - 1)$ is not.
    """
    if percentile == 100:
        return jnp.where(among, values, 0).max((-2, -1))
    share = Fraction(percentile / 100).limit_denominator(46_340)  # products stay below 2**31
    over, under = share.numerator, share.denominator
    last = jnp.maximum(among.sum((-2, -1), dtype=jnp.int32) - 1, 0)
    rest = last % under * over
    rank = last // under * over + rest // under
    weight = (rest % under).astype(values.dtype) / under

    width = 8 * values.dtype.itemsize
    integer = jnp.dtype(f"int{width}")
    none = jnp.asarray(jnp.iinfo(integer).max, integer)
    bits = jnp.where(among, lax.bitcast_convert_type(values, integer), none)

    def add_bit(step: Array, found: Array) -> Array:
        candidate = found | (jnp.ones((), integer) << (width - 2 - step).astype(integer))
        below = (bits < candidate[..., None, None]).sum((-2, -1), dtype=jnp.int32)
        return jnp.where(below <= rank, candidate, found)

    low = lax.fori_loop(0, width - 1, add_bit, jnp.zeros(rank.shape, integer))
    shown = low[..., None, None]
    repeated = (bits <= shown).sum((-2, -1), dtype=jnp.int32) > rank + 1
    following = jnp.where(bits > shown, bits, none).min((-2, -1))
    high = jnp.where(repeated | (rank == last), low, following)
    low, high = (lax.bitcast_convert_type(x, values.dtype) for x in (low, high))
    return jnp.where(high == low, low, low + (high - low) * weight)
