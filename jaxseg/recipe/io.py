"""Reads, checks, compares and saves recipes."""

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

from jaxseg.errors import InputError
from jaxseg.plain_values import from_plain
from jaxseg.recipe.fields import Recipe


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe as plain values that JSON can hold (JSON turns keys of `label_map` into strings)."""
    return dataclasses.asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """Returns the recipe of plain values: the inverse of `to_dict`, also after JSON.

    Raises:
        InputError: A field is unknown or its value has another type.
    """
    return from_plain(Recipe, values, "recipe")


def save(recipe: Recipe, path: Path) -> None:
    """Writes the recipe as JSON."""
    aside = path.with_name(path.name + ".new")  # a kill leaves the old file intact
    aside.write_text(json.dumps(to_dict(recipe), indent=2) + "\n")
    aside.replace(path)


def load(path: str | Path) -> Recipe:
    """Returns a recipe from a `.json` that `save` wrote, or from a `.py` that defines `recipe = Recipe(...)`.

    A `.py` is run: load no file that you would not run yourself.

    Raises:
        InputError: The file is missing or holds no recipe.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no recipe file {path}")
    if path.suffix == ".json":
        try:
            return from_dict(json.loads(path.read_text()))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    except Exception as error:  # whatever the file's own code raises
        raise InputError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path} defines no `recipe = jaxseg.Recipe(...)`")
    return recipe


def checked(recipe: Recipe) -> Recipe:
    """Returns the recipe with plain values of the declared types, as a run folder stores it; checks their ranges.

    Raises:
        InputError: A value of another type, or out of range.

    >>> from jaxseg.recipe import AugmentRecipe
    >>> checked(Recipe(augment=AugmentRecipe(crop_size=[64, 64]))).augment.crop_size
    (64, 64)
    """
    try:
        text = json.dumps(to_dict(recipe), default=_plain)
    except (TypeError, ValueError) as error:
        raise InputError(f"a recipe holds plain values only: {error}") from error
    recipe = from_dict(json.loads(text))
    if recipe.data.root == "":
        raise InputError("data.root is empty: is a variable of the shell unset?")
    least = {
        "train.epochs": 1,
        "train.batch_size": 1,
        "eval.batch_size": 1,
        "train.seed": 0,
        "train.patience": 1,
        "train.devices": 1,
        "train.spatial_shards": 1,
        "train.micro_batches": 1,
        "train.log_every": 1,
        "train.max_skipped": 1,
        "data.workers": 0,
    }
    for name, bound in least.items():
        part, leaf = name.split(".")
        value = getattr(getattr(recipe, part), leaf)
        if value is not None and value < bound:
            raise InputError(f"{name} is {value}, it is at least {bound}")
    return recipe


def _plain(value: Any) -> Any:
    """Converts values that JSON does not know, such as paths and NumPy's numbers."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r}")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Returns one line for each field in which two recipes differ.

    >>> from jaxseg.recipe import TrainRecipe
    >>> differences(Recipe(), Recipe(train=TrainRecipe(epochs=7)))
    ['train.epochs: 3 -> 7']
    """
    lines = []
    for part in dataclasses.fields(Recipe):
        before, after = getattr(old, part.name), getattr(new, part.name)
        if not dataclasses.is_dataclass(before):
            if before != after:
                lines.append(f"{part.name}: {before!r} -> {after!r}")
            continue
        for leaf in dataclasses.fields(before):
            a, b = getattr(before, leaf.name), getattr(after, leaf.name)
            if a != b:
                lines.append(f"{part.name}.{leaf.name}: {a!r} -> {b!r}")
    return lines
