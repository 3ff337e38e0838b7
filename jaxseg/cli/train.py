"""`jaxseg train [RECIPE.py] [--run DIR | --resume RUN] [--field value ...]`: trains and writes a run folder."""

import argparse
import functools
import gc
import os
from collections.abc import Sequence
from pathlib import Path

from jaxseg.cli import arguments, join, pages
from jaxseg.cli.ahead import Ahead
from jaxseg.cli.resume import forbidden_changes, recipe_of
from jaxseg.compiler import uncollected
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe

Given = tuple[Recipe, str, bytes]
"""A recipe, a name for its run, and the code of its file."""

_DESCRIPTION = f"""Train a model and write a run folder: checkpoints, metrics.jsonl, TensorBoard files, report.html.

  jaxseg train                                   the embedded shapes set
  jaxseg train experiments/camvid_unet.py --data.root DIR
  jaxseg train --resume RUN                      go on where RUN stopped

  --run DIR      the run folder to make (default: runs/NAME-DATE-TIME)
  --resume RUN   a run folder to go on with; its own recipe is used
  --dry-run      compile the step and say what each device needs; nothing is trained
  --topology T   with --dry-run: TPUs that need not be there, such as v5e:16x16 (pip install libtpu)
{join.HELP}

Every field of the recipe is an option:"""


def main(argv: Sequence[str]) -> int:
    """Trains, or goes on with a run."""
    own = arguments.parser("train", _DESCRIPTION)
    own = type(own)(prog="jaxseg train", add_help=False, allow_abbrev=False)
    own.add_argument("--run")
    own.add_argument("--resume")
    own.add_argument("--dry-run", action="store_true")
    own.add_argument("--topology")
    join.add_options(own)
    options, rest = own.parse_known_args(argv)
    if options.run and options.resume:
        raise InputError("--run names a new run and --resume an old one: give one of them")
    if options.topology and not options.dry_run:
        raise InputError(
            "--topology goes with --dry-run: what is trained on is the devices there are"
        )
    # Before anything looks for devices: other processes, and what a recipe's own code sets.
    others = join.join(options)
    read, ahead = functools.partial(_recipe, options, rest), None
    if not options.dry_run:
        pages.allow_huge(False)  # until the second step
        if not others:  # who keep no programs
            read = functools.cache(read)
            ahead = Ahead(repr((os.getcwd(), read())))
    with uncollected():
        from jaxseg.cli import training  # only now, while programs load
    gc.freeze()
    return training.run(options, read, ahead)


def _recipe(options: argparse.Namespace, rest: Sequence[str]) -> Given:
    """The recipe that a command line asks for, a name for its run, and the file's code, which was run for it."""
    given, fields = arguments.recipe_and_fields(rest)
    stored = recipe_of(options.resume) if options.resume else None
    start = given or stored or Recipe()
    recipe = arguments.override(start, fields, prog="jaxseg train", description=_DESCRIPTION)
    if stored is not None and (changed := forbidden_changes(stored, recipe)):
        raise InputError(
            f"{options.resume} was started with another recipe; a resumed run keeps its own:\n  "
            + "\n  ".join(changed)
        )
    if given is None:
        return recipe, "shapes", b""
    return recipe, Path(rest[0]).stem, Path(rest[0]).read_bytes()
