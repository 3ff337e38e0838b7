"""Joins of a decoder's map with a skip from the encoder: `merge(x, skip)`, both `[N, H, W, _]`."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.nn.conv import Conv
from jaxseg.typing import Array, Merge


def concatenate(x: Array, skip: Array) -> Array:
    """Concatenates the channels of both, `x` first.

    Args:
        x: `[N, H, W, C]`, the decoder's map.
        skip: `[N, H, W, D]`, the encoder's feature.

    Returns:
        `[N, H, W, C + D]`.

    References:
        Ronneberger et al., U-Net, 2015, https://arxiv.org/abs/1505.04597

    >>> concatenate(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 4))).shape
    (1, 2, 2, 7)
    """
    return jnp.concatenate([x, skip], axis=-1)


def add(x: Array, skip: Array) -> Array:
    """Adds both; where their channels differ, `x` goes through a 1x1 convolution first.

    The skip is added unchanged, so that gradients reach the encoder directly. Every call creates its own convolution, in
    the `nn.compact` method of the module that calls it.

    Args:
        x: `[N, H, W, C]`, the decoder's map.
        skip: `[N, H, W, D]`, the encoder's feature.

    Returns:
        `[N, H, W, D]`.

    References:
        Chaurasia and Culurciello, LinkNet, 2017, https://arxiv.org/abs/1707.03718, for skips by sum

    >>> add(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3)))[0, 0, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    if x.shape[-1] != skip.shape[-1]:
        x = Conv(skip.shape[-1], 1, kernel_init=_linear, dtype=x.dtype)(x)
    return x + skip


_linear = nn.initializers.lecun_normal()

MERGES: dict[str, Merge] = {"concatenate": concatenate, "add": add}
"""Merges by name, for recipes."""
