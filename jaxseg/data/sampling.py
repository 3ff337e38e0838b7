"""Drawing images that hold rare classes more often than others."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxseg.data.labels import counts
from jaxseg.errors import InputError

_ENDLESS = 2**48


def class_pixels(source: Any) -> np.ndarray:
    """How many pixels of each class each image of a source has: one pass over all labels.

    Args:
        source: The records; K is its `num_classes`, or 2 for one sigmoid.

    Returns:
        int64 `[L, K]`; ignored pixels are in none of them.

    >>> from jaxseg.data.shapes import Shapes
    >>> pixels = class_pixels(Shapes(3, (32, 32)))
    >>> pixels.shape, pixels.sum(1).tolist()
    ((3, 7), [1024, 1024, 1024])
    """
    classes = max(source.num_classes, 2)

    def look(index: int) -> list[int]:
        found = counts(source[index]["label"])
        return [found.get(each, 0) if each != source.ignore_index else 0 for each in range(classes)]

    with ThreadPoolExecutor(4) as pool:  # decoding leaves Python's lock to the others
        return np.array(list(pool.map(look, range(len(source)))), np.int64).reshape(-1, classes)


def class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    r"""With which probability rare class sampling draws each class.

    $$ P(c) = \frac{e^{(1 - f_c) / T}}{\sum_{c'} e^{(1 - f_{c'}) / T}}, \qquad
       f_c = \frac{\sum_i n_{ic}}{\sum_{i, c'} n_{ic'}} $$

    Args:
        pixels: `[L, K]`, $n_{ic}$, pixels of each class in each image; ignored pixels are in none.
        temperature: $T$; the smaller, the more the rarest classes are preferred. A large one draws all classes alike.

    Returns:
        `[K]`, of sum 1. A class that is in no image has 0, and is left out of the sum.

    Raises:
        InputError: A temperature that is not positive, or no labelled pixel at all.

    >>> class_probabilities(np.array([[3, 1, 0]]), 0.5).round(3).tolist()
    [0.269, 0.731, 0.0]

    References:
        Hoyer, Dai and Van Gool, DAFormer, 2022, https://arxiv.org/abs/2111.14887, equations 5 and 6, whose T is 0.01.
        It divides by all pixels, here by those that are labelled; and it cuts a window anew until the class is well
        in view, which is left to chance here.
    """
    if not temperature > 0:
        raise InputError(f"the temperature of rare class sampling is {temperature}, it is positive")
    totals = np.asarray(pixels, np.float64).sum(0)
    if not totals.sum():
        raise InputError("no pixel is labelled: there are no classes to sample by")
    scores = np.where(totals > 0, (1 - totals / totals.sum()) / temperature, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def rare_class_weights(pixels: np.ndarray, temperature: float) -> np.ndarray:
    r"""With which probability each image is drawn: a class first, then one of the images that hold it.

    $$ p_i = \sum_c P(c) \, \frac{[n_{ic} > 0]}{\#\{j : n_{jc} > 0\}} $$

    Args:
        pixels: `[L, K]`, $n_{ic}$, as of `class_pixels`.
        temperature: $T$ of $P(c)$, as of `class_probabilities`.

    Returns:
        float64 `[L]`, of sum 1; 0 for an image without labels.

    Raises:
        InputError: As of `class_probabilities`.

    >>> rare_class_weights(np.array([[4, 0], [3, 1]]), 1e9).round(3).tolist()
    [0.25, 0.75]

    References:
        Hoyer, Dai and Van Gool, DAFormer, 2022, https://arxiv.org/abs/2111.14887.
    """
    holds = np.asarray(pixels) > 0
    images = np.maximum(holds.sum(0), 1)
    return (holds * (class_probabilities(pixels, temperature) / images)).sum(1)


class Drawn:
    """Records without end, each drawn from another one, an image as often as its weight says.

    What is at a place depends on the seed and the place alone.

    Args:
        source: The records.
        weights: `[L]`, not negative.
        seed: Of the draws.

    Raises:
        InputError: Weights that are not one for each record, negative, not finite, or all zero.

    >>> drawn = Drawn("abc", [0.0, 1.0, 3.0], seed=0)
    >>> "".join(drawn[place] for place in range(12))
    'ccbccccbcccc'
    """

    def __init__(self, source: Any, weights: Any, *, seed: int):
        self.source, self.seed = source, seed
        self._edges = cumulative(weights, len(source))

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Any:
        at = np.random.default_rng([self.seed, index]).random()
        return self.source[int(np.searchsorted(self._edges, at, side="right"))]


def cumulative(weights: Any, length: int) -> np.ndarray:
    """Where in 0..1 the share of each record ends, `[L]`; the last that has one reaches beyond 1.

    Raises:
        InputError: As of `Drawn`.
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape != (length,):
        raise InputError(f"weights of shape {weights.shape} for {length} images")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise InputError("weights of images are finite, not negative, and not all of them zero")
    edges = np.cumsum(weights / weights.sum())
    edges[np.flatnonzero(weights)[-1] :] = np.inf
    return edges
