"""How a decoder joins what comes from below with a skip: `merge(x, skip)`, both `[N, H, W, _]`."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.nn.convolution import convolution
from jaxseg.typing import Array, Merge


def concatenate(x: Array, skip: Array) -> Array:
    """Both, one behind the other: `[N, H, W, C + D]`.

    Args:
        x: `[N, H, W, C]`, from below.
        skip: `[N, H, W, D]`, the encoder's feature.

    References:
        Ronneberger et al., U-Net, 2015, https://arxiv.org/abs/1505.04597

    >>> concatenate(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 4))).shape
    (1, 2, 2, 7)
    """
    return jnp.concatenate([x, skip], axis=-1)


def add(x: Array, skip: Array) -> Array:
    """The sum, `[N, H, W, D]`; where channels differ, `x` goes through a 1x1 convolution first.

    The skip is added as it is, so that gradients reach the encoder unhindered. The convolution is a
    layer of its own at every call, inside of a module's `nn.compact` method.

    Args:
        x: `[N, H, W, C]`, from below.
        skip: `[N, H, W, D]`, the encoder's feature.

    References:
        Chaurasia and Culurciello, LinkNet, 2017, https://arxiv.org/abs/1707.03718, for skips by sum

    >>> add(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3)))[0, 0, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    if x.shape[-1] != skip.shape[-1]:
        x = nn.Conv(
            skip.shape[-1],
            (1, 1),
            padding=0,
            kernel_init=_linear,
            dtype=x.dtype,
            conv_general_dilated=convolution,
        )(x)
    return x + skip


_linear = nn.initializers.lecun_normal()

MERGES: dict[str, Merge] = {"concatenate": concatenate, "add": add}
"""The ways to join by name, for recipes."""
