"""The end of a residual block: the sum with the shortcut, and a ReLU."""

import jax
import jax.numpy as jnp

from jaxseg.nn.platform import apart, by_platform
from jaxseg.typing import Array


@jax.custom_vjp
def add_relu(x: Array, shortcut: Array) -> Array:
    """`relu(x + shortcut)`, which is in memory before the next block reads it.

    XLA on a CPU would compute it anew wherever it is read, and within it the sum of the block before, and so on: the code
    of a stage grows with the square of its blocks. A ResNet-101 takes a quarter less time to compile like this.

    Args:
        x: `[N, H, W, C]`.
        shortcut: The same shape and type.

    >>> float(add_relu(jnp.float32(1), jnp.float32(2)))
    3.0
    """
    return by_platform(x, shortcut, cpu=apart(_add_relu), plain=_add_relu)


def _forward(x: Array, shortcut: Array) -> tuple[Array, Array]:
    y = add_relu(x, shortcut)
    return y, y


def _backward(y: Array, cotangent: Array) -> tuple[Array, Array]:
    passed = by_platform(y, cotangent, cpu=apart(_where_positive), plain=_where_positive)
    return passed, passed


add_relu.defvjp(_forward, _backward)


def _add_relu(x: Array, shortcut: Array) -> Array:
    return jax.nn.relu(x + shortcut)


def _where_positive(y: Array, cotangent: Array) -> Array:
    return jnp.where(y > 0, cotangent, 0)
