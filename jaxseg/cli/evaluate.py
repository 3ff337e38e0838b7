"""`jaxseg evaluate RUN [--split test]`: computes the scores of a run again, from its checkpoint."""

import json
from collections.abc import Sequence

from jaxseg import runs
from jaxseg.cli import arguments
from jaxseg.cli.tables import print_table
from jaxseg.runs.info import task_of
from jaxseg.runs.log import non_finite_to_none
from jaxseg.runs.progress import console


def main(argv: Sequence[str]) -> int:
    """Evaluates the best (or last) checkpoint of a run on one split."""
    parser = arguments.parser("evaluate", "Compute a run's scores again, from its checkpoint.")
    parser.epilog = arguments.EVAL_OPTIONS
    parser.add_argument("run", type=arguments.path, help="a run folder")
    parser.add_argument("--split", help="a split of its data set (default: the validation split)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument(
        "--data.root",
        type=arguments.path,
        dest="root",
        help="where the data set is, if it has moved",
    )
    options, fields = parser.parse_known_args(argv)
    folder = runs.RunFolder(options.run)
    recipe = folder.recipe
    split = options.split or recipe.data.validation_split
    scores = runs.evaluate(
        folder.path,
        split,
        checkpoint=options.checkpoint,
        root=options.root,
        options=arguments.eval_options(recipe, fields, prog=parser.prog),
    )
    task, shown = task_of(recipe, folder.info), console()
    shown.print(f"{split}  {task.summary(scores)}")
    if (table := task.table(scores)) is not None:
        print_table(table, shown)
    values = non_finite_to_none({"split": split, "checkpoint": options.checkpoint, **scores})
    file = folder.path / f"evaluation-{_safe(split)}.json"
    file.write_text(json.dumps(values, indent=2) + "\n")
    return 0


def _safe(split: str) -> str:
    """Returns a split's name as part of a file name (TFDS has splits such as train[90%:])."""
    return "".join(letter if letter.isalnum() else "-" for letter in split)
