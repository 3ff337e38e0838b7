"""Normalization of images on the device: they are transferred as uint8 and become float32 in the compiled step."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.typing import Array

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(
    mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Callable[[Array], Array]:
    """Returns a function that maps pixels in 0..255 to `(x / 255 - mean) / std` in float32.

    Args:
        mean: The mean of each channel, for pixels in 0..1.
        std: The standard deviation of each channel, for pixels in 0..1.

    Returns:
        A pure function of images `[..., C]`, uint8 or floating point.

    Raises:
        InputError: `mean` and `std` differ in length, or a `std` is not positive; the returned function raises it for images
            with another number of channels.

    >>> images = jnp.full((1, 2, 2, 3), 255, jnp.uint8)
    >>> normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.25))(images)[0, 0, 0].tolist()
    [1.0, 1.0, 2.0]
    """
    if len(mean) != len(std) or not mean:
        raise InputError(
            f"mean has {len(mean)} channels and std has {len(std)}; give one number per channel"
        )
    if min(std) <= 0:
        raise InputError(f"std must be positive, got {tuple(std)}")
    scale = np.asarray([1 / (255 * s) for s in std], np.float32)
    shift = np.asarray([-m / s for m, s in zip(mean, std, strict=True)], np.float32)

    def apply(images: Array) -> Array:
        if images.shape[-1] != len(scale):
            raise InputError(
                f"images have {images.shape[-1]} channels, but mean and std have {len(scale)}"
            )
        shape = (1,) * (images.ndim - 1) + (-1,)
        return images.astype(jnp.float32) * scale.reshape(shape) + shift.reshape(shape)

    return apply
