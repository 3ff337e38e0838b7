"""The mean over random masks of dropout, as a model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxseg.errors import InputError
from jaxseg.models.averaging import UNCERTAINTY, Averaging
from jaxseg.nn import Dropout, DropPath
from jaxseg.typing import Array, Variables


@dataclasses.dataclass(frozen=True)
class MonteCarloDropout:
    """A model that averages a model's outputs with dropout switched on; normalizations keep their statistics.

    Attributes:
        model: A Linen module with `Dropout` or `DropPath` of `jaxseg.nn`.
        samples: How often the model is called, each time with masks of its own.
        seed: Seed of the masks: the same images always have the same output.
        average: The mean; by default an `averaging.UncertainOutput` with maps of entropy and mutual information.

    Raises:
        InputError: `samples` is below 1.

    References:
        Gal and Ghahramani, Dropout as a Bayesian Approximation, 2016, https://arxiv.org/abs/1506.02142

    >>> import jax.numpy as jnp
    >>> from jaxseg.typing import Output
    >>> class Noisy(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(Dropout(0.5)(images, train=train))
    >>> output = MonteCarloDropout(Noisy(), samples=8).apply({}, jnp.full((1, 2, 2, 2), 3.0))
    >>> output.mutual_information.shape, bool((output.mutual_information > 0).all())
    ((1, 2, 2), True)
    """

    model: nn.Module
    samples: int = 10
    seed: int = 0
    average: Averaging = UNCERTAINTY

    def __post_init__(self):
        if self.samples < 1:
            raise InputError(f"samples={self.samples}: at least 1")

    def apply(self, variables: Variables, images: Array, *, train: bool = False) -> Any:
        """Returns the mean output.

        Args:
            variables: The model's variables.
            images: `[N, H, W, C]`.
            train: Must be false.

        Raises:
            InputError: `train` is true.
        """
        if train:
            raise InputError("Monte-Carlo dropout is for inference: train the model itself")

        def run(key: Array) -> Any:
            with nn.intercept_methods(_switch_on):
                return self.model.apply(variables, images, train=False, rngs={"dropout": key})

        keys = jax.random.split(jax.random.key(self.seed), self.samples)
        return self.average.finish(self.average.accumulate(run, keys), self.samples)


def _switch_on(function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, Dropout | DropPath) and context.method_name == "__call__":
        kwargs = kwargs | {"train": True}
    return function(*args, **kwargs)
