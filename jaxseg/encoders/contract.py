"""What decoders and models ask of an encoder."""

from typing import Any, Protocol

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array


class Encoder(Protocol):
    """What decoders and models ask of an encoder."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each feature, fine to coarse."""
        ...

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each feature."""
        ...

    def __call__(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, C]` to one `[N, ceil(H / s), ceil(W / s), C_s]` per stride."""
        ...


def layout(encoder: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The encoder's strides and channels, or an error that says what an encoder is."""
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
    return tuple(strides), tuple(channels)


def types_of(encoder: Any, dtype: Any, param_dtype: Any) -> dict[str, Any]:
    """The types to build with: those that were asked for, else the encoder's."""
    return {
        "dtype": getattr(encoder, "dtype", None) if dtype is None else dtype,
        "param_dtype": getattr(encoder, "param_dtype", jnp.float32)
        if param_dtype is None
        else param_dtype,
    }
