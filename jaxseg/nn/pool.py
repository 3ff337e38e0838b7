"""Pooling with PyTorch's semantics."""

import jax.numpy as jnp
from jax import lax

from jaxseg.typing import Array


def max_pool(x: Array, window: int, stride: int, padding: int = 0) -> Array:
    """The maximum of each window; what lies outside of the image never wins.

    Args:
        x: `[N, H, W, C]`, floating point.
        window: Height and width of the window in pixels.
        stride: Step between windows.
        padding: Pixels of minus infinity on every side.

    Returns:
        `[N, (H + 2 * padding - window) // stride + 1, ..., C]`.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 3, 2, 1)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), pads
    )
