"""The interface of encoders, and the checks that all families share."""

from typing import Any, Protocol

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array


class Encoder(Protocol):
    """A Linen module from images to features, fine to coarse.

    The encoders of jaxseg have the fields `in_channels`, `depth`, `dtype` and `param_dtype` too, and
    `output_stride` if the family can dilate.
    """

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each feature, fine to coarse."""
        ...

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each feature."""
        ...

    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, C]` to one feature `[N, ceil(H / s), ceil(W / s), C_s]` per stride `s`."""
        ...


def check_fields(encoder: Any, depths: int, output_strides: tuple[int, ...] = ()) -> None:
    """Checks the fields `in_channels`, `depth` and `output_stride`, for `__post_init__`.

    Args:
        encoder: The encoder; the messages name its class.
        depths: The largest depth of the family.
        output_strides: The output strides of the family; without any the field is not looked up.

    Raises:
        InputError: If a field has a value that the family cannot have.
    """
    family = type(encoder).__name__
    if encoder.in_channels < 1:
        raise InputError(f"in_channels={encoder.in_channels}: an image has at least one channel")
    if encoder.depth not in range(1, depths + 1):
        raise InputError(f"depth={encoder.depth}: a {family} has 1 to {depths} features")
    if output_strides and encoder.output_stride not in output_strides:
        *others, last = map(str, output_strides)
        known = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"output_stride={encoder.output_stride}: a {family} can have {known}")


def check_images(images: Array, in_channels: int) -> None:
    """Checks the channels of an encoder's images.

    Raises:
        InputError: If they differ from `in_channels`.
    """
    if images.shape[-1] != in_channels:
        raise InputError(
            f"images of shape {images.shape} have {images.shape[-1]} channels, "
            f"but the encoder has in_channels={in_channels}"
        )


def check_encoder(encoder: Any) -> None:
    """Checks that a builder's argument `encoder` is a Linen module with strides and channels.

    Raises:
        InputError: If it is something else, such as an encoder's name.
    """
    if isinstance(encoder, str):
        raise InputError(
            f"encoder={encoder!r}: a builder takes a module, such as "
            f"jaxseg.encoders.create({encoder!r}); jaxseg.create takes names"
        )
    strides, channels = getattr(encoder, "strides", None), getattr(encoder, "channels", None)
    if not isinstance(encoder, nn.Module) or strides is None or channels is None:
        raise InputError(
            f"encoder={encoder!r}: "
            "an encoder is a Linen module with the properties strides and channels"
        )
    if len(strides) != len(channels) or not strides:
        raise InputError(
            f"the encoder has strides {tuple(strides)}, but channels {tuple(channels)}: "
            "one of each per feature"
        )


def inherit_dtypes(encoder: Any, dtype: Any, param_dtype: Any) -> dict[str, Any]:
    """Returns the fields `dtype` and `param_dtype` for what stands on an encoder.

    Each is the encoder's where the argument is None.
    """
    return {
        "dtype": getattr(encoder, "dtype", None) if dtype is None else dtype,
        "param_dtype": getattr(encoder, "param_dtype", jnp.float32)
        if param_dtype is None
        else param_dtype,
    }
