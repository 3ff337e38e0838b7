"""Initialization of a model's parameters."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseg import compiler
from jaxseg.images import channels_of
from jaxseg.typing import Key, Size, Variables


def init(
    model: nn.Module, key: Key, *, channels: int | None = None, size: Size = (64, 64)
) -> Variables:
    """Initializes a model's variables.

    Returns the values of `model.init(key, jnp.zeros((1, *size, channels)))`, which compiles every operation of the model
    by itself. This function compiles the initializers alone, as one program and with little optimization, which on a CPU
    takes a fifth of the time.

    Args:
        model: A Linen module whose first argument is a batch of images `[N, H, W, C]`.
        key: PRNG key of the parameters.
        channels: Number of channels of the images; by default `in_channels` of the model or its encoder, or 3.
        size: Height and width of the images, in pixels. The parameters of a convolutional network do not depend on it.

    Returns:
        `{"params": ..., "batch_stats": ...}`; the second entry only for models with batch normalization.

    >>> import jax
    >>> variables = init(nn.Conv(4, (3, 3)), jax.random.key(0), channels=1)
    >>> variables["params"]["kernel"].shape
    (3, 3, 1, 4)
    """
    if channels is None:
        channels = channels_of(model)
    return compiler.jit_once(lambda key: model.init(key, jnp.zeros((1, *size, channels))))(key)
