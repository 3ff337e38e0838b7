"""`jaxseg predict RUN IMAGE_OR_FOLDER... --out DIR`: predicts image files."""

from collections.abc import Sequence

from jaxseg import runs
from jaxseg.cli import arguments
from jaxseg.errors import InputError
from jaxseg.runs.progress import console


def main(argv: Sequence[str]) -> int:
    """Predicts images and writes the results, each at its image's own size."""
    parser = arguments.parser(
        "predict",
        "Predict images. Semantic segmentation writes for each NAME.jpg: NAME.index.png (class ids), NAME.colour.png, "
        "NAME.overlay.png.",
    )
    parser.epilog = arguments.EVAL_OPTIONS
    parser.add_argument("run", type=arguments.path, help="a run folder")
    parser.add_argument("images", type=arguments.path, nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--out", type=arguments.path, required=True, help="the folder to write to")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    options, fields = parser.parse_known_args(argv)
    recipe = runs.RunFolder(options.run).recipe
    files, problems = runs.predict(
        options.run,
        options.images,
        options.out,
        checkpoint=options.checkpoint,
        options=arguments.eval_options(recipe, fields, prog=parser.prog),
    )
    written = sum(map(len, files.values()))
    console().print(
        f"{len(files)} of {len(files) + len(problems)} images, {written} files in {options.out}"
    )
    if problems:
        raise InputError("not predicted:\n  " + "\n  ".join(problems))
    return 0
