"""Conversion of pixel values to floating point and back."""

import jax.numpy as jnp

from jaxseg.typing import Array

MAX_VALUE = 255


def to_float(image: Array) -> Array:
    """Returns the image in float64 if it has that dtype, in float32 otherwise; the scale remains 0..255."""
    return image.astype(jnp.float64 if image.dtype == jnp.float64 else jnp.float32)


def like(values: Array, image: Array) -> Array:
    """Returns the values in the dtype of `image`; integers are rounded (ties to even) and clipped to 0..255.

    >>> like(jnp.array([-3.0, 1.5, 300.0]), jnp.zeros((), jnp.uint8)).tolist()
    [0, 2, 255]
    """
    if jnp.issubdtype(image.dtype, jnp.floating):
        return values.astype(image.dtype)
    return jnp.clip(jnp.round(values), 0, MAX_VALUE).astype(image.dtype)
