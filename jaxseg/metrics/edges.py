r"""The boundaries of masks: which pixels of a class lie on its edge, and how far two edges are from each other.

The mask of a class is its pixels in the labels, or in the predictions, *that are not ignored*: an ignored pixel is in
no mask, whatever was predicted there. A label or a prediction that is no class is in no mask either, and is not ignored.

A pixel of a mask is an **edge** pixel if one of its four neighbours is outside: a counted pixel of another class, or
beyond the border of the image, as SciPy and MONAI have it. A mask has no edge where it borders on ignored pixels: what
is behind them is not known. Where nothing is ignored this is `mask & ~scipy.ndimage.binary_erosion(mask)`.

Score images at their own size: filled up with ignored pixels they have other borders.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxseg.distance import distance_transform
from jaxseg.errors import InputError
from jaxseg.ignored import Ignored, is_ignored
from jaxseg.typing import Array


class Masks(NamedTuple):
    """One class in every image: its pixels in the truth, in the prediction, and what is outside it in each, `[N, H, W]`."""

    true: Array
    predicted: Array
    outside_true: Array
    outside_predicted: Array


class Edges(NamedTuple):
    """Edge pixels of truth and prediction, `[2, N, H, W]` bool, and how far each pixel is from the *other* one's edge."""

    pixels: Array
    distances: Array


def score_classes(
    score: Callable[[Masks, Array], Array],
    *,
    labels: Array,
    predictions: Array,
    num_classes: int,
    ignore_index: Ignored,
) -> Array:
    """A score of each image and class, one class after the other, so that memory does not grow with their number.

    Args:
        score: From the masks of a class and its number, a scalar, to `[N]`; not asked about classes without a pixel.
        labels: `[N, H, W]`, any integer type, the truth.
        predictions: `[N, H, W]`, any integer type.
        num_classes: K of the logits; 1 stands for one sigmoid, whose classes are 0 and 1.
        ignore_index: The label of pixels that are not counted, several, or None for none.

    Returns:
        `[N, max(K, 2)]` float32 (float64 under x64); NaN for classes that are in none of the masks.

    Raises:
        InputError: Shapes do not fit, a type is not an integer's, or `num_classes` is below 1.
    """
    labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
    if labels.ndim != 3 or labels.shape != predictions.shape:
        raise InputError(
            f"labels {labels.shape} and predictions {predictions.shape} must both be [N, H, W]"
        )
    for name, array in (("labels", labels), ("predictions", predictions)):
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise InputError(f"{name} are class ids, integers, not {array.dtype}")
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}, there must be 1 or more")
    labels, predictions = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    counted = ~is_ignored(labels, ignore_index)
    dtype = jnp.result_type(float)

    def present(masks: Masks, number: Array) -> Array:
        return score(masks, number).astype(dtype)

    def absent(masks: Masks, number: Array) -> Array:
        del number
        return jnp.where(masks.true.any((1, 2)), 0.0, jnp.nan).astype(dtype)

    def of_class(number: Array) -> Array:
        true, predicted = (counted & (x == number) for x in (labels, predictions))
        masks = Masks(true, predicted, counted & ~true, counted & ~predicted)
        return lax.cond((true | predicted).any(), present, absent, masks, number)

    return lax.map(of_class, jnp.arange(max(num_classes, 2), dtype=jnp.int32)).T


def class_edges(masks: Masks, spacing: tuple[float, float] = (1.0, 1.0)) -> Edges:
    """The edges of truth and prediction, and from every pixel the distance to the other's, in units of `spacing`."""
    pixels = jnp.stack(
        [
            masks.true & near(masks.outside_true, 1, square=False),
            masks.predicted & near(masks.outside_predicted, 1, square=False),
        ]
    )
    return Edges(pixels, distance_transform(pixels[::-1], spacing=spacing))


def within(edges: Edges, tolerance: Array) -> Array:
    """Which edge pixels have the other edge within a scalar `tolerance`, `[2, N, H, W]`: one rounding beyond it too."""
    return edges.pixels & (edges.distances <= tolerance * jnp.asarray(1 + 1e-6, tolerance.dtype))


def count(pixels: Array) -> Array:
    """Returns the number of true pixels of `[..., H, W]`, `[...]` floating."""
    return pixels.sum((-2, -1), dtype=jnp.int32).astype(jnp.result_type(float))


def near(outside: Array, reach: int, *, square: bool) -> Array:
    """Where a pixel of `outside`, or beyond the image, is within `reach` steps along rows and columns.

    Args:
        outside: `[..., H, W]` bool.
        reach: In pixels, 1 or more.
        square: Steps along both at once: a square of side $2 r + 1$ instead of a cross.
    """
    rows, columns = outside.ndim - 2, outside.ndim - 1
    along = functools.partial(_near_along, reach=reach)
    if square:
        return along(along(outside, axis=rows), axis=columns)
    return along(outside, axis=rows) | along(outside, axis=columns)


def _near_along(outside: Array, *, axis: int, reach: int) -> Array:
    """Whether one of $2 r + 1$ neighbours along an axis is set: windows of 1, 2, 4, ... and a last one that overlaps."""
    reach = min(reach, outside.shape[axis])
    window = 2 * reach + 1
    padding = [(0, 0)] * outside.ndim
    padding[axis] = (reach, reach)
    found = jnp.pad(outside, padding, constant_values=True)
    done = 1
    while done < window:
        step = min(done, window - done)
        length = found.shape[axis] - step
        found = lax.slice_in_dim(found, 0, length, axis=axis) | lax.slice_in_dim(
            found, step, step + length, axis=axis
        )
        done += step
    return found
