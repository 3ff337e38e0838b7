"""`jaxseg train [RECIPE.py] [--run DIR | --resume RUN] [--field value ...]`: trains and writes a run folder."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from jaxseg.cli import arguments, distributed
from jaxseg.errors import InputError
from jaxseg.parallel.processes import is_single_process, on_all_processes, on_first_process
from jaxseg.recipe import Recipe

_DESCRIPTION = f"""Train a model and write a run folder: checkpoints, metrics.jsonl, TensorBoard files, report.html.

  jaxseg train                                   the embedded shapes set
  jaxseg train experiments/camvid_unet.py --data.root DIR
  jaxseg train --resume RUN                      continue RUN where it stopped

  --run DIR      the run folder to make (default: runs/NAME-DATE-TIME)
  --resume RUN   a run folder to continue; its own recipe is used
  --dry-run      compile the step and print what each device needs; nothing is trained
  --topology T   with --dry-run: TPUs that need not be present, such as v5e:16x16 (pip install libtpu)
{distributed.HELP}

Every field of the recipe is an option:"""


def main(argv: Sequence[str]) -> int:
    """Trains, or continues a run."""
    parser = argparse.ArgumentParser(prog="jaxseg train", add_help=False, allow_abbrev=False)
    parser.add_argument("--run", type=arguments.path)
    parser.add_argument("--resume", type=arguments.path)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--topology")
    distributed.add_options(parser)
    options, rest = parser.parse_known_args(argv)
    if options.run and options.resume:
        raise InputError("--run names a new run and --resume an old one: give one of them")
    if options.topology and not options.dry_run:
        raise InputError("--topology needs --dry-run: training uses the devices of this machine")
    distributed.join(options)  # before anything looks for devices
    try:
        recipe, name = on_all_processes(lambda: _recipe(options.resume, rest))
        if options.dry_run:
            from jaxseg.cli import dry_run

            dry_run.print_cost(recipe, options.topology)
            return 0
        from jaxseg import runs

        folder = options.resume or options.run or on_first_process(lambda: _new_folder(name))
        runs.train(recipe, folder, resume=bool(options.resume))
    except Exception as error:
        if is_single_process():
            raise
        distributed.leave(error)
    return 0


def _recipe(resume: str | None, rest: Sequence[str]) -> tuple[Recipe, str]:
    """Returns the recipe that a command line asks for, and a name for its run."""
    named, fields = arguments.recipe_and_fields(rest)
    start = named or Recipe()
    if named is None and resume is not None:
        from jaxseg.runs.folder import RunFolder

        start = RunFolder(resume).recipe
    recipe = arguments.override(start, fields, prog="jaxseg train", description=_DESCRIPTION)
    return recipe, "shapes" if named is None else Path(rest[0]).stem


def _new_folder(name: str) -> str:
    return f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
