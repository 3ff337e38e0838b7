"""`jaxseg train [RECIPE.py] [--run DIR | --resume RUN] [--field value ...]`: trains and writes a run folder."""

import os
from collections.abc import Sequence

from jaxseg.cli import arguments, join, pages
from jaxseg.cli.ahead import Ahead
from jaxseg.errors import InputError

DESCRIPTION = f"""Train a model and write a run folder: checkpoints, metrics.jsonl, TensorBoard files, report.html.

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
    own = arguments.parser("train", DESCRIPTION)
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
    others = join.join(options)  # before anything looks for devices, such as a recipe's own code
    ahead = None
    if not options.dry_run:
        pages.allow_huge(False)  # until the second step
        if not others:  # who keep no programs
            ahead = Ahead(repr((os.getcwd(), vars(options) | {"run": None}, rest)))
    from jaxseg.cli import training  # only now, while programs load

    return training.run(options, rest, ahead)
