"""Large images in overlapping windows, as a model."""

import dataclasses
from functools import partial
from operator import itemgetter
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.errors import InputError
from jaxseg.typing import Array, Size, Variables

Blend = Literal["gaussian", "constant"]
_SIGMA = 0.125  # of the window's size
_LEAST_WEIGHT = 1e-3


@dataclasses.dataclass(frozen=True)
class SlidingWindow:
    """A model that sees an image through overlapping windows and returns their weighted mean.

    Memory for the network's activations depends on windows alone, however large the image is. Windows start every
    `window * (1 - overlap)` pixels; the last of a row ends with the image. Use it in place of a model, in
    `make_eval_step`, `make_predict`, `jaxseg.predict` and everything else that calls `model.apply`.

    Attributes:
        model: Anything with `apply(variables, images, train=False)` that returns a pytree of maps at the images' size,
            such as `jaxseg.models.unet(...)`.
        window: Height and width of the windows in pixels.
        overlap: The part of a window that the next one covers, at least 0 and less than 1.
        blend: Weights of a window's pixels: `"gaussian"`, with a standard deviation of an eighth of the window, so that
            pixels near a border count little; or `"constant"`.
        batch_size: Windows of each image that the model sees at once.
        padding: Value around images that are smaller than a window, in the model's input; None for a smaller window
            instead.

    Raises:
        InputError: A size, the overlap, the blend or the batch size is out of range.

    References:
        `"gaussian"` and padding are those of MONAI's `sliding_window_inference`,
        https://docs.monai.io/en/stable/inferers.html; `"constant"` without padding is mmsegmentation's mode "slide" with
        `stride = window * (1 - overlap)`.

    >>> import flax.linen as nn
    >>> from jaxseg.typing import Output
    >>> class Edges(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(jnp.abs(images - jnp.roll(images, 1, axis=2)))
    >>> model = SlidingWindow(Edges(), window=(8, 8))
    >>> model.apply({}, jnp.ones((1, 20, 30, 3))).logits.shape
    (1, 20, 30, 3)
    """

    model: Any
    window: Size
    overlap: float = 0.25
    blend: Blend = "gaussian"
    batch_size: int = 1
    padding: float | None = 0.0

    def __post_init__(self):
        if min(self.window) < 1:
            raise InputError(f"window={self.window}: a window has at least one pixel")
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap={self.overlap}: at least 0 and less than 1")
        if self.blend not in ("gaussian", "constant"):
            raise InputError(f'blend={self.blend!r}: "gaussian" or "constant"')
        if self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size}: at least one window at once")

    def apply(self, variables: Variables, images: Array, *, train: bool = False) -> Any:
        """Returns the model's output for whole images.

        Args:
            variables: The model's variables.
            images: `[N, H, W, C]`, of any size.
            train: Must be false.

        Returns:
            The model's output: every map in it is the weighted mean over windows.

        Raises:
            InputError: `train` is true, or the model returns something that is no map at the images' size, such as labels
                of whole images.
        """
        if train:
            raise InputError("windows are for inference: train the model on crops")
        size = images.shape[1], images.shape[2]
        window = self.window
        if self.padding is None:
            window = min(window[0], size[0]), min(window[1], size[1])
        missing = [max(0, w - s) for w, s in zip(window, size, strict=True)]
        around = [(m // 2, m - m // 2) for m in missing]
        if any(missing):
            images = jnp.pad(images, [(0, 0), *around, (0, 0)], constant_values=self.padding or 0.0)
        (top, _), (left, _) = around
        return jax.tree.map(
            lambda x: x[:, top : top + size[0], left : left + size[1]],
            self._mean_of_windows(variables, images, window),
        )

    def _mean_of_windows(self, variables: Variables, images: Array, window: Size) -> Any:
        n, *size, _ = images.shape
        corners = _corners((size[0], size[1]), window, self.overlap)
        count, b = len(corners), self.batch_size
        # The last batch is filled up with the first window, which does not count there.
        batches = -(-count // b)
        order = np.arange(batches * b) % count
        counted = (np.arange(batches * b) < count).astype(np.float32)
        weights = jnp.asarray(_weights(window, self.blend))

        def run(corners: Array) -> Any:
            crop = (n, *window, images.shape[3])
            crops = [lax.dynamic_slice(images, (0, *corner, 0), crop) for corner in corners]
            return self.model.apply(variables, jnp.concatenate(crops), train=False)

        def add(totals: tuple[Any, Array], batch: tuple[Array, Array]) -> tuple[Any, None]:
            total, total_weight = totals
            corners, counted = batch
            output = jax.tree.map(lambda x: x.reshape(b, n, *x.shape[1:]), run(corners))
            for i, corner in enumerate(corners):
                add_window = partial(_add_window, weights=weights * counted[i], corner=corner)
                part = jax.tree.map(itemgetter(i), output)
                total = jax.tree.map(add_window, total, part)
                total_weight = add_window(total_weight, jnp.ones((1, *window)))
            return (total, total_weight), None

        like = jax.eval_shape(run, jax.ShapeDtypeStruct((b, 2), jnp.int32))
        zeros = jax.tree.map(lambda x: _zeros_for(x, n, (size[0], size[1]), window), like)
        steps = corners[order].reshape(batches, b, 2), counted.reshape(batches, b)
        start = zeros, jnp.zeros((1, *size))
        (total, total_weight), _ = lax.scan(add, start, jax.tree.map(jnp.asarray, steps))
        return jax.tree.map(lambda x: x / _as_map(total_weight, x), total)


def _zeros_for(x: Any, n: int, size: Size, window: Size) -> Array:
    if x.ndim < 3 or x.shape[1:3] != window:
        raise InputError(f"the model returns {x.shape} for windows of {window}: not a map of them")
    return jnp.zeros((n, *size, *x.shape[3:]), x.dtype)


def _as_map(weights: Array, like: Array) -> Array:
    shape = *weights.shape, *(1,) * (like.ndim - weights.ndim)
    return weights.reshape(shape).astype(like.dtype)


def _add_window(total: Array, x: Array, *, weights: Array, corner: Array) -> Array:
    start = (0, corner[0], corner[1], *(0,) * (x.ndim - 3))
    old = lax.dynamic_slice(total, start, x.shape)
    return lax.dynamic_update_slice(total, old + x * _as_map(weights[None], x), start)


def _corners(size: Size, window: Size, overlap: float) -> np.ndarray:
    """Returns the first row and column of every window, int32 `[M, 2]`."""
    starts = [_starts(*axis, overlap) for axis in zip(size, window, strict=True)]
    return np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int32)


def _starts(length: int, window: int, overlap: float) -> np.ndarray:
    step = max(1, int(window * (1 - overlap)))
    count = -(-(length - window) // step) + 1
    return np.minimum(np.arange(count) * step, length - window)


def _weights(window: Size, blend: Blend) -> np.ndarray:
    """Returns the weight of each pixel of a window."""
    if blend == "constant":
        return np.ones(window, np.float32)
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in window)
    sigmas = [_SIGMA * n for n in window]
    rows, columns = (
        np.exp(-(x**2) / (2 * s**2)) for x, s in zip((rows, columns), sigmas, strict=True)
    )
    return np.maximum(np.outer(rows, columns), _LEAST_WEIGHT).astype(np.float32)
