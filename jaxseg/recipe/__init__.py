"""Recipes: frozen dataclasses of names and numbers that say how one model is trained."""

from jaxseg.recipe.fields import (
    AugmentRecipe,
    DataRecipe,
    EvalRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Option,
    Recipe,
    TrainRecipe,
)
from jaxseg.recipe.io import checked, differences, from_dict, load, save, to_dict

__all__ = [
    "AugmentRecipe",
    "DataRecipe",
    "EvalRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Option",
    "Recipe",
    "TrainRecipe",
    "checked",
    "differences",
    "from_dict",
    "load",
    "save",
    "to_dict",
]
