"""Random variables of a model, without the long compilation that `model.init` costs on a CPU."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from jaxseg import compiler
from jaxseg.train.drawing import draw_together
from jaxseg.typing import Key, Variables


def initialize(model: nn.Module, key: Key, *, channels: int = 3) -> Variables:
    """The same variables as `model.init`, compiled with little optimisation.

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
    with compiler.uncollected():
        return make_init(model, channels=channels)(key)


def make_init(model: nn.Module, *, channels: int = 3) -> Callable[[Key], Variables]:
    """`initialize` as a compiled function of the key, whose shapes `jax.eval_shape` tells by the same trace.

    Args:
        model: A Linen module of images.
        channels: Channels of the images.

    Returns:
        `init(key) -> variables`.

    >>> import jax
    >>> init = make_init(nn.Conv(4, (3, 3)))
    >>> jax.eval_shape(init, jax.random.key(0))["params"]["bias"].shape
    (4,)
    """
    return compiler.jit_once(
        draw_together(lambda key: model.init(key, jnp.zeros((1, 64, 64, channels))))
    )
