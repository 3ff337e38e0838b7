"""Images beside their truth and their prediction, and the selection of the best and the worst of a set."""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.errors import InputError
from jaxseg.report import inline

_LONG_SIDE = 480  # pixels: larger images are reduced for the page


def select(
    examples: Iterable[Any], count: int = 4, *, higher_is_better: bool = True
) -> tuple[list[Any], list[Any]]:
    """Returns the examples with the best and with the worst scores; holds at most twice `count` of them in memory.

    Args:
        examples: Any number of objects with a `score`, for instance a generator; those whose score is nan are left out.
        count: How many of each; a set of fewer than twice as many is divided between the two.
        higher_is_better: The direction of the score.

    Returns:
        The best, best first, and the worst, worst first. No example is in both.

    >>> from types import SimpleNamespace as Example
    >>> best, worst = select((Example(name=i, score=i / 9) for i in range(9)), count=2)
    >>> [example.name for example in best], [example.name for example in worst]
    ([8, 7], [0, 1])
    """
    sign = 1 if higher_is_better else -1
    kept: list[Any] = []
    for example in examples:
        if math.isnan(example.score):
            continue
        kept = sorted([*kept, example], key=lambda kept: sign * kept.score)
        if len(kept) > 2 * count:
            del kept[count]
    half = min(count, len(kept) // 2)
    best = kept[half:][::-1][:count]
    return best, kept[:half]


def figure(
    example: Any, draw: Callable[[np.ndarray, Any], Sequence[np.ndarray]], score_title: str
) -> str:
    """Returns one example as HTML: image, truth and prediction side by side below its name and its score.

    Args:
        example: An object with `name`, `image`, `truth`, `prediction` and `score`, such as `jaxseg.tasks.task.Example`. The
            image is `[H, W, C]`, uint8, or any numbers, which are then stretched to the full range; of more than three
            channels the first three are shown, of two the first.
        draw: Turns the image and an annotation into pictures uint8 `[H, W, 3]`, of which the first is shown.
        score_title: The score's name, such as `"mIoU"`.

    Raises:
        InputError: An annotation cannot be drawn, such as one of another size than the image.
    """
    image = _picture(example.image)
    factor = math.ceil(max(image.shape[:2]) / _LONG_SIDE)
    panels = [("image", inline.photograph(np.asarray(Image.fromarray(image).reduce(factor))))]
    for name, annotation in (("truth", example.truth), ("prediction", example.prediction)):
        try:
            drawn = draw(image, annotation)[0]
        except InputError as error:
            raise InputError(f"{example.name}: {error}") from error
        panels.append((name, inline.png(np.ascontiguousarray(drawn[::factor, ::factor]))))
    style = ' class="small"' if max(image.shape[:2]) <= 160 else ""
    body = "".join(
        f'<div><img{style} src="{source}" alt="{name}" loading="lazy">{name}</div>'
        for name, source in panels
    )
    score = f"{example.score:.3f}" if math.isfinite(example.score) else "n/a"
    name = html.escape(example.name)
    return (
        f'<figure class="card"><figcaption><span title="{name}">{name}</span><b>{html.escape(score_title)} {score}</b>'
        f'</figcaption><div class="triple">{body}</div></figure>'
    )


def _picture(image: np.ndarray) -> np.ndarray:
    """Returns uint8 `[H, W, 3]` for any image."""
    image = image if image.ndim == 3 else image[:, :, None]
    image = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float64))
        low, high = image.min(), image.max()
        image = ((image - low) * (255 / (high - low or 1.0)) + 0.5).astype(np.uint8)
    return image
