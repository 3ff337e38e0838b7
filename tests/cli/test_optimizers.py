"""Optimizers that a recipe names: the two of the library, and any of optax or of one's own."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from harness.runs import make_run

from jaxseg.cli import arguments
from jaxseg.errors import InputError
from jaxseg.recipe import OptimizerRecipe, Recipe

PARAMS = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
GRADIENT = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, -2.0)}


def updates(optimizer):
    with jax.numpy_dtype_promotion("standard"):  # optax mixes types
        return optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)[0]


def build(**fields):
    constant = {"learning_rate": 0.1, "warmup": 0.0}
    run = make_run(Recipe(optimizer=OptimizerRecipe(**constant, **fields)))
    return run.optimizer


def noisy(schedule, *, scale):
    """An optimizer of one's own."""
    return optax.chain(optax.scale(scale), optax.scale_by_learning_rate(schedule))


def three(schedule):
    """No optimizer."""
    return 3


def test_any_of_optax_by_its_place():
    ours = build(name="optax:lion", options={"b1": 0.5, "weight_decay": 0.2}, clip_norm=1.0)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(0.1, b1=0.5, weight_decay=0.2))
    chex.assert_trees_all_close(updates(ours), updates(theirs))
    assert float(updates(ours)["kernel"][0, 0]) == pytest.approx(-0.12)  # the sign, and the decay


def test_one_of_ones_own():
    ours = build(name=f"{__name__}:noisy", options={"scale": 3.0}, clip_norm=None)
    assert float(updates(ours)["kernel"][0, 0]) == pytest.approx(-0.6)


def test_the_librarys_take_options_too():
    ours = build(name="adamw", options={"b2": 0.5}, weight_decay=0.0, clip_norm=None)
    theirs = optax.adamw(0.1, b2=0.5, weight_decay=0.0)
    chex.assert_trees_all_close(updates(ours), updates(theirs))


def test_the_command_line_names_one():
    options = ["--optimizer.name=optax:lion", "--optimizer.options", "b1", "0.5"]
    recipe = arguments.override(Recipe(), options, prog="jaxseg train", description="")
    assert recipe.optimizer == OptimizerRecipe(name="optax:lion", options={"b1": 0.5})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "lion"}, "unknown optimizer 'lion'.*package.module:builder"),
        ({"name": "adam"}, "did you mean 'adamw'"),
        ({"name": "optax:lyon"}, "unknown builder in optax 'lyon'; did you mean 'lion'"),
        (
            {"name": "optax:lion", "options": {"b3": 1.0}},
            "unknown option of optimizer 'optax:lion'",
        ),
        (
            {"name": f"{__name__}:three"},
            "returned an object of type int, not an optax transformation",
        ),
        ({"options": {"weight_decay": 0.1}}, "weight_decay is a field of the recipe"),
    ],
)
def test_bad_input_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        build(**fields)
