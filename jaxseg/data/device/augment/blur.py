"""Gaussian blur of images; targets are unchanged."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.data.device.augment.compose import Sample, Transform
from jaxseg.data.device.augment.pixel_values import like, to_float
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key


def blur(image: Array, sigma: Any, *, radius: int) -> Array:
    """Convolves an image with a Gaussian; the border is reflected without repeating the outermost pixel.

    Computed as a weighted sum of shifted images, which XLA fuses: convolutions are slow inside a loop on CPUs.

    Args:
        image: `[H, W, C]`, uint8 or floating point.
        sigma: Standard deviation in pixels; 0 leaves the image unchanged.
        radius: Radius of the kernel in pixels, static; 3 sigma is usual.

    Returns:
        The image, in its dtype.

    >>> blur(jnp.array([[[0.0], [3.0], [0.0]]]), 1e9, radius=1).ravel().tolist()
    [2.0, 1.0, 2.0]
    """
    values = to_float(image)
    offsets = jnp.arange(-radius, radius + 1, dtype=values.dtype)
    sigma = jnp.maximum(jnp.asarray(sigma, values.dtype), 1e-3)  # avoids a division by zero
    weights = jnp.exp(-0.5 * (offsets / sigma) ** 2)
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
    """Returns a transform that blurs the image by a standard deviation uniform in `0 .. sigma`.

    Args:
        sigma: The largest standard deviation in pixels.
        probability: Of blurring.

    Raises:
        InputError: A number is out of its range.
    """
    if sigma < 0 or not 0 <= probability <= 1:
        raise InputError(
            f"sigma={sigma} must not be negative and probability={probability} lies in 0..1"
        )

    def transform(key: Key, sample: Sample) -> Sample:
        image = sample["image"]
        decision, inner = jax.random.split(key)
        sampled = jax.random.uniform(inner, (), to_float(image).dtype, 0, sigma)
        sampled = jnp.where(jax.random.bernoulli(decision, probability), sampled, 0)
        return {**sample, "image": blur(image, sampled, radius=math.ceil(3 * sigma))}

    return transform
