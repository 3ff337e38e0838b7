"""A recipe's train step, and the shapes of what it is called with."""

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
from jaxseg.train.state import create_state
from jaxseg.train.step import make_train_step
from jaxseg.typing import Variables


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


def described(
    recipe: Recipe, facts: Facts, variables: Variables, optimizer: optax.GradientTransformation
) -> tuple[Any, dict[str, Any], Any]:
    """Shapes and types of the state, of a batch as the host loads it and of the key, for those of the variables."""
    ema = recipe.train.ema_decay is not None
    state = jax.eval_shape(lambda drawn: create_state(drawn, optimizer, ema=ema), variables)
    size = recipe.augment.crop_size or facts.image_size
    shape = (recipe.train.batch_size, *size)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, facts.channels), jnp.uint8),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
    }
    return state, batch, jax.eval_shape(lambda: jax.random.key(0))
