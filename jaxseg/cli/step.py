"""A recipe's train step, the state that it begins with, and the shapes of its batches."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxseg.cli import assemble
from jaxseg.cli.assemble import Network
from jaxseg.cli.folder import Facts
from jaxseg.recipe import ModelRecipe, Recipe
from jaxseg.train.finite import skip_nonfinite
from jaxseg.train.remat import keep_products
from jaxseg.train.state import TrainState, create_state
from jaxseg.train.step import make_train_step
from jaxseg.train.variables import jit_init
from jaxseg.typing import Key


def train_step(
    recipe: Recipe, facts: Facts, network: Network, optimizer: optax.GradientTransformation
) -> Callable[..., Any]:
    """The step, not compiled yet, which leaves out updates that are not finite."""
    step = make_train_step(
        network.model,
        optimizer,
        assemble.loss(recipe, facts),
        preprocess=network.preprocess,
        frozen_statistics=frozen_statistics(recipe.model),
        ema_decay=recipe.train.ema_decay,
        micro_batches=recipe.train.micro_batches,
        remat=keep_products if recipe.train.rematerialize else None,
    )
    return skip_nonfinite(step)


def frozen_statistics(recipe: ModelRecipe) -> tuple[str, ...]:
    """The path prefixes whose BatchNorm layers keep their statistics."""
    return {"none": (), "encoder": ("encoder",), "all": ("",)}[recipe.freeze_statistics]


def make_state(recipe: Recipe, network: Network, optimizer: optax.GradientTransformation) -> Any:
    """The function of `jax.jit` that draws a key's state before the first step, whose shapes `jax.eval_shape` tells."""
    draw = inspect.unwrap(network.init)  # one program for variables and state

    def new(key: Key) -> TrainState:
        return create_state(draw(key), optimizer, ema=recipe.train.ema_decay is not None)

    return jit_init(new)


def batch_shapes(recipe: Recipe, facts: Facts) -> dict[str, Any]:
    """Shapes and types of a batch as the host loads it."""
    size = recipe.augment.crop_size or facts.image_size
    shape = (recipe.train.batch_size, *size)
    return {
        "image": jax.ShapeDtypeStruct((*shape, facts.channels), jnp.uint8),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
    }
