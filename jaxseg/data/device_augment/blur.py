"""Gaussian blur of an image; its label stays as it is."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.data.device_augment.compose import Transform
from jaxseg.data.device_augment.values import like, to_float
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key


def blur(image: Array, sigma: Any, *, radius: int) -> Array:
    """The image under a Gaussian, mirrored at its edges without repeating the outermost pixel.

    Sums of shifted images, which XLA fuses, instead of a convolution: those are slow inside of a loop on a CPU.

    Args:
        image: `[H, W, C]`, uint8 or floating point.
        sigma: Standard deviation in pixels; 0 leaves the image as it is.
        radius: The Gaussian is cut off after so many pixels; 3 sigma are usual. It is static.

    Returns:
        The image, in the type given.

    >>> blur(jnp.array([[[0.0], [3.0], [0.0]]]), 1e9, radius=1).ravel().tolist()
    [2.0, 1.0, 2.0]
    """
    values = to_float(image)
    offsets = jnp.arange(-radius, radius + 1, dtype=values.dtype)
    narrow = jnp.maximum(jnp.asarray(sigma, values.dtype), 1e-3)  # its neighbours weigh nothing
    weights = jnp.exp(-0.5 * (offsets / narrow) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        margin = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
        padded = jnp.pad(values, margin, mode="reflect")
        shifted = (
            jax.lax.slice_in_dim(padded, k, k + values.shape[axis], axis=axis)
            for k in range(2 * radius + 1)
        )
        values = sum((weights[k] * part for k, part in enumerate(shifted)), jnp.zeros_like(values))
    return like(values, image)


def random_blur(sigma: float, *, probability: float = 0.5) -> Transform:
    """Blurs by a standard deviation drawn from `0 .. sigma`.

    Args:
        sigma: The greatest standard deviation in pixels.
        probability: How often anything is blurred.

    Raises:
        InputError: A number out of its range.
    """
    if sigma < 0 or not 0 <= probability <= 1:
        raise InputError(
            f"sigma={sigma} must not be negative and probability={probability} lies in 0..1"
        )

    def transform(key: Key, image: Array, label: Array) -> tuple[Array, Array]:
        often, draw = jax.random.split(key)
        real = to_float(image).dtype
        drawn = jax.random.uniform(draw, (), real, 0, sigma)
        drawn = jnp.where(jax.random.bernoulli(often, probability), drawn, 0)
        return blur(image, drawn, radius=math.ceil(3 * sigma)), label

    return transform
