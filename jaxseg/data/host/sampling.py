"""Rare class sampling: images that hold rare classes are sampled more often."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxseg.data.labels import counts
from jaxseg.data.targets import only_mask
from jaxseg.errors import InputError

_ENDLESS = 2**48


def class_pixels(source: Any) -> np.ndarray:
    """Counts the pixels of each class in each image of a source, in one pass over all masks.

    Args:
        source: The records, with exactly one mask among the targets and an attribute `num_classes`.

    Returns:
        int64 `[L, K]`, with K = 2 for one sigmoid; ignored pixels are not counted.

    Raises:
        InputError: The source has no mask, or more than one.

    >>> from jaxseg.data.sources.shapes import Shapes
    >>> pixels = class_pixels(Shapes(3, (32, 32)))
    >>> pixels.shape, pixels.sum(1).tolist()
    ((3, 7), [1024, 1024, 1024])
    """
    mask = only_mask(source.targets, "rare class sampling")
    classes, ignored = max(source.num_classes, 2), source.targets[mask].fill

    def count(index: int) -> list[int]:
        found = counts(source[index][mask])
        return [found.get(each, 0) if each != ignored else 0 for each in range(classes)]

    with ThreadPoolExecutor(4) as pool:  # decoding releases Python's lock
        rows = list(pool.map(count, range(len(source))))
    return np.array(rows, np.int64).reshape(-1, classes)


def class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    r"""Computes the probability of each class in rare class sampling.

    $$ P(c) = \frac{e^{(1 - f_c) / T}}{\sum_{c'} e^{(1 - f_{c'}) / T}}, \qquad
       f_c = \frac{\sum_i n_{ic}}{\sum_{i, c'} n_{ic'}} $$

    Args:
        pixels: `[L, K]`, $n_{ic}$, the pixels of each class in each image, without ignored pixels.
        temperature: $T$; the smaller, the more the rarest classes are preferred. A large one makes all classes equally likely.

    Returns:
        `[K]`, of sum 1. A class that no image holds has probability 0 and is left out of the sum.

    Raises:
        InputError: The temperature is not positive, or no pixel is labelled.

    >>> class_probabilities(np.array([[3, 1, 0]]), 0.5).round(3).tolist()
    [0.269, 0.731, 0.0]

    References:
        Hoyer, Dai and Van Gool, DAFormer, 2022, https://arxiv.org/abs/2111.14887, equations 5 and 6, with T = 0.01. There
        frequencies are relative to all pixels, here to labelled ones; and there a crop is repeated until it holds enough of
        the class, here it is not.
    """
    if not temperature > 0:
        raise InputError(
            f"the temperature of rare class sampling is {temperature}, but must be positive"
        )
    totals = np.asarray(pixels, np.float64).sum(0)
    if not totals.sum():
        raise InputError("no pixel is labelled: there are no classes to sample by")
    scores = np.where(totals > 0, (1 - totals / totals.sum()) / temperature, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def rare_class_weights(pixels: np.ndarray, temperature: float) -> np.ndarray:
    r"""Computes the probability of each image: a class is sampled first, then one of the images that hold it.

    $$ p_i = \sum_c P(c) \, \frac{[n_{ic} > 0]}{\#\{j : n_{jc} > 0\}} $$

    Args:
        pixels: `[L, K]`, $n_{ic}$, returned by `class_pixels`.
        temperature: $T$ of $P(c)$, see `class_probabilities`.

    Returns:
        float64 `[L]`, of sum 1; 0 for an image without labels.

    Raises:
        InputError: As for `class_probabilities`.

    >>> rare_class_weights(np.array([[4, 0], [3, 1]]), 1e9).round(3).tolist()
    [0.25, 0.75]

    References:
        Hoyer, Dai and Van Gool, DAFormer, 2022, https://arxiv.org/abs/2111.14887.
    """
    holds = np.asarray(pixels) > 0
    images = np.maximum(holds.sum(0), 1)
    return (holds * (class_probabilities(pixels, temperature) / images)).sum(1)


class WeightedSamples:
    """An endless sequence of records, sampled from a source with replacement and by weights.

    The record at an index depends only on the seed and the index.

    Args:
        source: The records.
        weights: `[L]`, not negative.
        seed: Seeds the sampling.

    Raises:
        InputError: Weights are not one for each record, or are negative, not finite, or all zero.

    >>> samples = WeightedSamples("abc", [0.0, 1.0, 3.0], seed=0)
    >>> "".join(samples[index] for index in range(12))
    'ccbccccbcccc'
    """

    def __init__(self, source: Any, weights: Any, *, seed: int):
        self.source, self.seed = source, seed
        self._edges = cumulative(weights, len(source))

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Any:
        value = np.random.default_rng([self.seed, index]).random()
        return self.source[int(np.searchsorted(self._edges, value, side="right"))]


def cumulative(weights: Any, length: int) -> np.ndarray:
    """Returns the cumulative probabilities `[L]` of weights; infinity from the last positive weight on.

    Raises:
        InputError: As for `WeightedSamples`.

    >>> cumulative([1, 3, 0], 3).tolist()
    [0.25, inf, inf]
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape != (length,):
        raise InputError(f"weights of shape {weights.shape} for {length} images")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise InputError("weights of images must be finite and not negative, and not all zero")
    edges = np.cumsum(weights / weights.sum())
    edges[np.flatnonzero(weights)[-1] :] = np.inf
    return edges
