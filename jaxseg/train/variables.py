"""Random variables of a model, without the long compilation that `model.init` costs on a CPU."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseg import compiler
from jaxseg.typing import Key, Variables


def initialize(model: nn.Module, key: Key, *, channels: int = 3) -> Variables:
    """The same variables as `model.init`, by `compiler.once`.

    Args:
        model: A Linen module of images.
        key: Key of the parameters.
        channels: Channels of the images.

    Returns:
        `{"params": ..., "batch_stats": ...}`.

    >>> import jax
    >>> variables = initialize(nn.Conv(4, (3, 3)), jax.random.key(0))
    >>> variables["params"]["kernel"].shape
    (3, 3, 3, 4)
    """
    images = jnp.zeros((1, 64, 64, channels))
    with compiler.uncollected():
        return compiler.once(model.init)(key, images)
