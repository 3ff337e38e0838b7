"""Going on with a run: the recipe that it was started with, and what of it may differ."""

from pathlib import Path

from jaxseg import recipe as recipes
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe


def recipe_of(folder: str | Path) -> Recipe:
    """The recipe in a run folder.

    Raises:
        InputError: There is none.
    """
    path = Path(folder) / "recipe.json"
    if not path.is_file():
        raise InputError(
            f"{folder} is not a run folder: it holds no recipe.json (a run that ended before it began leaves none: start "
            "it again with --run)"
        )
    return recipes.load(path)


def forbidden_changes(stored: Recipe, recipe: Recipe) -> list[str]:
    """How two recipes differ, but for what the result does not depend on: where the data lie, who loads them."""
    lines = recipes.differences(stored, recipe)
    free = ("data.root:", "data.manual_dir:", "data.workers:")
    return [line for line in lines if not line.startswith(free)]
