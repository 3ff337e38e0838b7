"""Pixel values in floating point for the time of a computation, and back."""

import jax.numpy as jnp

from jaxseg.typing import Array

BRIGHTEST = 255


def to_float(image: Array) -> Array:
    """The image in float32, or in float64 where it is so; the scale stays 0..255."""
    return image.astype(jnp.float64 if image.dtype == jnp.float64 else jnp.float32)


def like(values: Array, image: Array) -> Array:
    """Values in the type of `image`: uint8 is rounded (ties to even) and held within 0..255.

    >>> like(jnp.array([-3.0, 1.5, 300.0]), jnp.zeros((), jnp.uint8)).tolist()
    [0, 2, 255]
    """
    if jnp.issubdtype(image.dtype, jnp.floating):
        return values.astype(image.dtype)
    return jnp.clip(jnp.round(values), 0, BRIGHTEST).astype(image.dtype)
