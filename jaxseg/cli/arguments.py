"""Reading a command line: a recipe to start from, then single fields that override it."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from jaxseg import recipe as recipes
from jaxseg.recipe import EvalRecipe, Recipe


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser for a command's own arguments; it leaves `--help` to the caller where fields follow."""
    return argparse.ArgumentParser(
        prog=f"jaxseg {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def path(text: str) -> str:
    """Returns a path of a command line.

    Raises:
        ArgumentTypeError: It is empty, as a variable of a shell that is not set.
    """
    if not text:
        raise argparse.ArgumentTypeError("empty: is a variable of the shell unset?")
    return text


EVAL_OPTIONS = """Windows, flips and scales, by default those of the run:
  --eval.window HEIGHT WIDTH  --eval.overlap 0.25  --eval.blend {gaussian,constant}
  --eval.flips {horizontal,vertical} ...  --eval.rotations DEGREES ...  --eval.scales FACTOR ...
"""


def recipe_and_fields(arguments: Sequence[str]) -> tuple[Recipe | None, list[str]]:
    """Takes a leading recipe file off the arguments.

    Returns:
        The recipe, None when no file is named, and the arguments behind it.
    """
    rest = list(arguments)
    if rest and not rest[0].startswith("-") and Path(rest[0]).suffix in (".py", ".json"):
        return recipes.load(rest[0]), rest[1:]
    return None, rest


def override(recipe: Recipe, fields: Sequence[str], *, prog: str, description: str) -> Recipe:
    """Returns the recipe with the fields of a command line (`--train.epochs 3`).

    A dictionary on the command line (`--loss.weights focal 1 dice 0.5`) replaces that of the recipe. Unknown fields and
    wrong values end the program with exit code 2 and a message that names valid ones.
    """
    start = recipes.checked(recipe)
    # tyro takes the keys of a dictionary that is not empty for options: it gets empty ones.
    empty = _replace_dicts(start, lambda stored, parsed: {}, start)
    parsed = tyro.cli(Recipe, default=empty, args=list(fields), prog=prog, description=description)
    return recipes.checked(_replace_dicts(parsed, lambda parsed, stored: parsed or stored, start))


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    eval: EvalRecipe


def eval_options(recipe: Recipe, fields: Sequence[str], *, prog: str) -> EvalRecipe:
    """Returns a run's options of evaluation with those of a command line (`--eval.window 512 512`)."""
    start = _Evaluation(recipe.eval)
    parsed = tyro.cli(_Evaluation, default=start, args=list(fields), prog=prog).eval
    return recipes.checked(dataclasses.replace(recipe, eval=parsed)).eval


def _replace_dicts(recipe: Recipe, choose: Callable[[Any, Any], Any], other: Recipe) -> Recipe:
    parts = {}
    for part in dataclasses.fields(Recipe):
        values, others = getattr(recipe, part.name), getattr(other, part.name)
        if dataclasses.is_dataclass(values):
            parts[part.name] = dataclasses.replace(
                values,  # pyright: ignore[reportArgumentType] - an instance
                **{
                    field.name: choose(value, getattr(others, field.name))
                    for field in dataclasses.fields(values)
                    if isinstance(value := getattr(values, field.name), dict)
                },
            )
    return dataclasses.replace(recipe, **parts)
