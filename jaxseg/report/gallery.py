"""Images beside their truth and their prediction, and the choice of the best and the worst of a whole set."""

import html
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxseg.errors import InputError
from jaxseg.report import inline
from jaxseg.report.overlay import colorize

_LONG_SIDE = 480  # pixels: larger images are thinned out for the page


class Example(NamedTuple):
    """One image of the evaluated set.

    Attributes:
        name: As the data set names it.
        image: `[H, W]` or `[H, W, C]`; uint8, or any numbers, which are then stretched to the full range. Of more
            than three channels the first three are shown, of two the first.
        truth: Labels `[H, W]`, integers.
        prediction: Labels `[H, W]`, integers.
        iou: The image's own mean IoU, nan where nothing counts.
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    iou: float


def select(examples: Iterable[Example], count: int = 4) -> tuple[list[Example], list[Example]]:
    """The examples of the highest and of the lowest IoU, in one pass that holds no more than twice `count` of them.

    Args:
        examples: Any number, for instance a generator; those whose IoU is nan are left out.
        count: How many of each; a set of fewer than twice as many is divided between the two.

    Returns:
        The best, best first, and the worst, worst first. No example is in both.

    >>> pixel = np.zeros((1, 1), np.uint8)
    >>> best, worst = select((Example(f"{i}", pixel, pixel, pixel, i / 9) for i in range(9)), count=2)
    >>> [example.name for example in best], [example.name for example in worst]
    (['8', '7'], ['0', '1'])
    """
    kept: list[Example] = []
    for example in examples:
        if math.isnan(example.iou):
            continue
        kept = sorted([*kept, example], key=lambda kept: kept.iou)
        if len(kept) > 2 * count:
            del kept[count]
    half = min(count, len(kept) // 2)
    best = kept[half:][::-1][:count]
    return best, kept[:half]


def figure(example: Example, palette: np.ndarray, *, ignore_index: int = 255) -> str:
    """One example as HTML: image, truth and prediction side by side under its name and its IoU.

    Raises:
        InputError: Truth or prediction of another size than the image.
    """
    size = example.image.shape[:2]
    if example.truth.shape != size or example.prediction.shape != size:
        raise InputError(
            f"{example.name}: image {list(size)}, truth {list(example.truth.shape)} and prediction "
            f"{list(example.prediction.shape)} differ in size"
        )
    factor = math.ceil(max(size) / _LONG_SIDE)
    image = np.asarray(Image.fromarray(_picture(example.image)).reduce(factor))
    truth, prediction = (
        colorize(labels[::factor, ::factor], palette, ignore_index=ignore_index)
        for labels in (example.truth, example.prediction)
    )
    style = ' class="small"' if max(size) <= 160 else ""
    panels = "".join(
        f'<div><img{style} src="{source}" alt="{name}" loading="lazy">{name}</div>'
        for name, source in (
            ("image", inline.photograph(image)),
            ("truth", inline.png(truth)),
            ("prediction", inline.png(prediction)),
        )
    )
    score = f"IoU {example.iou:.3f}" if math.isfinite(example.iou) else "IoU n/a"
    name = html.escape(example.name)
    return (
        f'<figure class="card"><figcaption><span title="{name}">{name}</span><b>{score}</b></figcaption>'
        f'<div class="triple">{panels}</div></figure>'
    )


def _picture(image: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` of any image."""
    image = image if image.ndim == 3 else image[:, :, None]
    image = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float64))
        low, high = image.min(), image.max()
        image = ((image - low) * (255 / (high - low or 1.0)) + 0.5).astype(np.uint8)
    return image
