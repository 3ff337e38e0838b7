"""Random variables of a model, without the long compilation that `model.init` costs on a CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.typing import Key, Variables


def initialize(model: nn.Module, key: Key, *, channels: int = 3) -> Variables:
    """The same variables as `model.init`, compiled with little optimisation.

    XLA on a CPU spends a second or more on the random numbers of each kernel's shape, a minute on a large network, to
    save milliseconds in a function that runs once; without any optimisation the numbers themselves take longer to draw.

    Args:
        model: A Linen module of images.
        key: Key of the parameters.
        channels: Channels of the images.

    Returns:
        `{"params": ..., "batch_stats": ...}`.

    >>> from flax import linen as nn
    >>> variables = initialize(nn.Conv(4, (3, 3)), jax.random.key(0))
    >>> variables["params"]["kernel"].shape
    (3, 3, 3, 4)
    """
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    images = jnp.zeros((1, 64, 64, channels))
    return jax.jit(model.init, compiler_options=options)(key, images)
