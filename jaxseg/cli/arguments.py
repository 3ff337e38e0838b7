"""Reading a command line: a recipe to start from, then single fields that override it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import tyro

from jaxseg import recipe as recipes
from jaxseg.recipe import Recipe


def parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser for a command's own arguments; it leaves `--help` to the caller where fields follow."""
    return argparse.ArgumentParser(
        prog=f"jaxseg {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


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
    """The recipe with the fields of a command line (`--train.epochs 3`) put in.

    Unknown fields and wrong values end the program with exit code 2 and say what would have worked.
    """
    start = recipes.checked(recipe)
    given = tyro.cli(Recipe, default=start, args=list(fields), prog=prog, description=description)
    return recipes.checked(given)
