"""Brightness, contrast, saturation and hue of images; targets are unchanged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.data.device.augment.compose import Sample, Transform
from jaxseg.data.device.augment.pixel_values import MAX_VALUE, like, to_float
from jaxseg.errors import InputError
from jaxseg.typing import Array, Key

_GREY = (0.299, 0.587, 0.114)  # Rec. 601, the weights of red, green and blue in OpenCV and Pillow


def adjust_colour(
    image: Array,
    *,
    brightness: Any = 1.0,
    contrast: Any = 1.0,
    saturation: Any = 1.0,
    hue: Any = 0.0,
) -> Array:
    """Changes brightness, then contrast, saturation and hue; values are clipped to 0..255 after each.

    Brightness multiplies the image; contrast scales about the image's mean grey; saturation scales about the grey of each
    pixel. Images with other than 3 channels have no saturation or hue: those two are skipped, and grey is the mean of the
    channels.

    Args:
        image: `[H, W, C]`, uint8 or floating point in 0..255.
        brightness: Factor.
        contrast: Factor.
        saturation: Factor.
        hue: Rotation of the hue as a fraction of a full circle, in -0.5..0.5.

    Returns:
        The image, in its dtype.

    >>> red = jnp.array([[[200, 0, 0]]], jnp.uint8)
    >>> adjust_colour(red, brightness=0.5, hue=1 / 3).tolist()
    [[[0, 100, 0]]]
    """
    values = to_float(image)
    brightness, contrast, saturation, hue = (
        jnp.asarray(factor, values.dtype) for factor in (brightness, contrast, saturation, hue)
    )
    values = jnp.clip(values * brightness, 0, MAX_VALUE)
    values = _blend(values, _grey(values).mean(), contrast)
    if image.shape[-1] == 3:
        values = _blend(values, _grey(values), saturation)
        values = _rotate_hue(values, hue)
    return like(values, image)


def random_colour(
    *,
    brightness: float = 0.3,
    contrast: float = 0.3,
    saturation: float = 0.3,
    hue: float = 0.05,
    probability: float = 0.8,
) -> Transform:
    """Returns a transform that samples factors in `1 - a .. 1 + a`, and a hue shift in `-hue .. hue`.

    Args:
        brightness: The largest change, in [0, 1].
        contrast: The largest change, in [0, 1].
        saturation: The largest change, in [0, 1].
        hue: The largest change, in [0, 0.5].
        probability: Of any change.

    Raises:
        InputError: A number is out of its range.
    """
    amounts = (brightness, contrast, saturation, hue)
    if min(*amounts, probability) < 0 or max(*amounts, probability) > 1 or hue > 0.5:
        raise InputError(
            f"brightness, contrast, saturation, hue={amounts} and probability={probability} lie in 0..1, hue in 0..0.5"
        )

    def transform(key: Key, sample: Sample) -> Sample:
        image = sample["image"]
        real = to_float(image).dtype
        decision, inner = jax.random.split(key)
        happens = jax.random.bernoulli(decision, probability).astype(real)
        ranges = jnp.asarray(amounts, real) * happens
        change = ranges * jax.random.uniform(inner, (4,), real, -1, 1)
        changed = adjust_colour(
            image,
            brightness=1 + change[0],
            contrast=1 + change[1],
            saturation=1 + change[2],
            hue=change[3],
        )
        return {**sample, "image": changed}

    return transform


def _grey(values: Array) -> Array:
    """Returns the weighted mean of the channels, `[H, W, 1]`."""
    channels = values.shape[-1]
    weights = _GREY if channels == 3 else (1 / channels,) * channels
    weighted = values * jnp.asarray(np.reshape(weights, (1, 1, -1)), values.dtype)
    return weighted.sum(-1, keepdims=True)


def _blend(values: Array, grey: Array, factor: Array) -> Array:
    return jnp.clip(grey + (values - grey) * factor, 0, MAX_VALUE)


def _rotate_hue(values: Array, hue: Array) -> Array:
    """Rotates the hue at constant value and chroma; each channel is a trapezium of the hue, a third of a circle apart."""
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    most, least = values.max(-1), values.min(-1)
    chroma = most - least
    safe = jnp.where(chroma == 0, 1, chroma)
    sixths = jnp.where(
        most == red,
        (green - blue) / safe,
        jnp.where(most == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    rotated = sixths + 6 * hue

    def channel(offset: int) -> Array:
        k = (rotated + offset) % 6
        return most - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)
