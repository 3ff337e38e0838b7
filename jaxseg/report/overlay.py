"""Class ids as colours: a plain colour image, or colours laid over the photograph; NumPy alone."""

import numpy as np

from jaxseg.errors import InputError

_HATCH = np.array([[128, 130, 136], [168, 170, 176]], np.uint8)  # ignored pixels: diagonal greys
_HATCH_WIDTH = 4


def colorize(labels: np.ndarray, palette: np.ndarray, *, ignore_index: int = 255) -> np.ndarray:
    """Paints every pixel in the colour of its class.

    Args:
        labels: Class ids, an integer array `[..., H, W]`.
        palette: One colour for each class, uint8 `[K, 3]`.
        ignore_index: The label without a class; painted as a grey hatch, which no class colour looks like.

    Returns:
        uint8 `[..., H, W, 3]`.

    Raises:
        InputError: Labels outside `0..K-1` that are not ignored, or arrays of another type or rank.

    >>> palette = np.array([[0, 0, 0], [250, 80, 60]], np.uint8)
    >>> colorize(np.array([[0, 1]]), palette).tolist()
    [[[0, 0, 0], [250, 80, 60]]]
    """
    labels, palette = _check(labels, palette, ignore_index)
    ignored = labels == ignore_index
    colours = palette[np.where(ignored, 0, labels)]
    if ignored.any():
        height, width = labels.shape[-2:]
        rows, columns = np.ogrid[:height, :width]
        hatch = _HATCH[(rows + columns) // _HATCH_WIDTH % 2]
        colours = np.where(ignored[..., None], hatch, colours)
    return colours


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: np.ndarray,
    *,
    alpha: float = 0.5,
    ignore_index: int = 255,
    outline: bool = True,
) -> np.ndarray:
    """Lays class colours over an image, with crisp borders between the classes.

    Inside a region a pixel is `(1 - alpha) image + alpha colour`; where a class meets another the colour is opaque;
    ignored pixels show the image alone.

    Args:
        image: uint8 `[H, W, 3]`, or grey `[H, W]` or `[H, W, 1]`.
        labels: Class ids, an integer array `[H, W]`.
        palette: One colour for each class, uint8 `[K, 3]`.
        alpha: Opacity of the colours, 0 to 1.
        ignore_index: The label without a class.
        outline: Whether borders are drawn.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        InputError: An alpha outside [0, 1], labels as in `colorize`, or an image of another size or type.

    >>> palette = np.array([[0, 0, 0], [200, 100, 0]], np.uint8)
    >>> overlay(np.full((1, 2), 100, np.uint8), np.ones((1, 2), int), palette).tolist()
    [[[150, 100, 50], [150, 100, 50]]]
    """
    labels, palette = _check(labels, palette, ignore_index)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.shape not in _fitting(labels.shape):
        raise InputError(
            f"an image of {image.dtype} {list(image.shape)} under labels {list(labels.shape)}: "
            "expected uint8 [H, W, 3], [H, W, 1] or [H, W] of the same size"
        )
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha {alpha}: expected 0 to 1")
    image = image if image.ndim == 3 else image[:, :, None]
    ignored = labels == ignore_index
    opacity = np.where(ignored, 0.0, alpha)
    if outline:
        opacity = np.where(_borders(labels) & ~ignored, 1.0, opacity)
    colours = palette[np.where(ignored, 0, labels)]
    mixed = image + opacity[:, :, None] * (colours.astype(np.float64) - image)
    return (mixed + 0.5).astype(np.uint8)


def _borders(labels: np.ndarray) -> np.ndarray:
    """Pixels whose lower or right neighbour has another label: lines of one pixel."""
    border = np.zeros(labels.shape, bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return border


def _fitting(size: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return ((*size, 3), (*size, 1), size) if len(size) == 2 else ()


def _check(labels: np.ndarray, palette: np.ndarray, ignore_index: int):
    labels, palette = np.asarray(labels), np.asarray(palette)
    if palette.dtype != np.uint8 or palette.ndim != 2 or palette.shape[1] != 3 or not len(palette):
        raise InputError(
            f"a palette of {palette.dtype} {list(palette.shape)}: expected uint8 [K, 3]"
        )
    if labels.dtype.kind not in "iu" or labels.ndim < 2:
        raise InputError(f"labels of {labels.dtype} {list(labels.shape)}: expected integers [H, W]")
    labels = labels.astype(np.int64)
    wrong = labels[((labels < 0) | (labels >= len(palette))) & (labels != ignore_index)]
    if wrong.size:
        raise InputError(
            f"label {wrong[0]}, but the palette has {len(palette)} colours and ignore_index={ignore_index}"
        )
    return labels, palette
