"""`jaxseg predict RUN IMAGE_OR_FOLDER... --out DIR`: class indices, colours and overlay of each image."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxseg import compiler
from jaxseg.cli import arguments, assemble
from jaxseg.cli import evaluate as evaluation
from jaxseg.cli.folder import RunFolder
from jaxseg.cli.progress import console
from jaxseg.data.decode import SUFFIXES, decode_image
from jaxseg.data.files import walk
from jaxseg.errors import InputError
from jaxseg.inference.predict import make_predict
from jaxseg.report.overlay import colorize, overlay


def main(argv: Sequence[str]) -> int:
    """Segments images and writes three PNGs for each, at the image's own size."""
    parser = arguments.parser(
        "predict",
        "Segment images. For each NAME.jpg: NAME.index.png (class ids), NAME.colour.png, NAME.overlay.png.",
    )
    parser.add_argument("run", help="a run folder")
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--out", required=True, help="the folder to write to")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    options = parser.parse_args(argv)
    run = RunFolder(options.run)
    recipe, facts = run.recipe, run.facts
    files = find_images(options.images, Path(options.out))
    network = assemble.network(recipe.model, facts)
    variables = evaluation.restore_variables(run, network, options.checkpoint)
    predict = compiler.jit(make_predict(network.model, preprocess=network.preprocess))
    palette = np.asarray(facts.palette, np.uint8)
    out = Path(options.out)
    broken = []
    for file, name in files:
        try:
            image = decode_image(file)
        except InputError as error:
            broken.append(str(error))
            continue
        labels = np.asarray(predict(variables, image[None]))[0]
        labels = labels.astype(np.uint8 if len(facts.classes) <= 256 else np.uint16)
        target = out / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for kind, picture in (
                ("index", labels),
                ("colour", colorize(labels, palette)),
                ("overlay", overlay(image, labels, palette)),
            ):
                Image.fromarray(picture).save(target.with_name(f"{target.name}.{kind}.png"))
        except OSError as error:
            raise InputError(f"cannot write to {out}: {error}") from error
    console().print(f"{len(files) - len(broken)} of {len(files)} images, 3 files each, in {out}")
    if broken:
        raise InputError("not segmented:\n  " + "\n  ".join(broken))
    return 0


def find_images(places: Sequence[str], out: Path) -> list[tuple[Path, Path]]:
    """Every image named or lying in a folder named (subfolders too), with its name in the output folder.

    Hidden files, and what an earlier call wrote into `out`, are passed over.

    Returns:
        Pairs of the file and its path without suffix below the folder that was named; with its suffix, where images
        differ in nothing else.

    Raises:
        InputError: A place does not exist, a folder holds no image, or two images would share a name.
    """
    names = {}
    for place in map(Path, places):
        for file, name in _images(place, out.resolve()):
            names.setdefault(file.resolve(), (file, name))
    times = Counter(name.with_suffix("") for _, name in names.values())
    found: dict[Path, Path] = {}
    for file, name in names.values():
        name = name.with_suffix("") if times[name.with_suffix("")] == 1 else name
        if name in found:
            raise InputError(f"{file} and {found[name]} would both be written as {name}.*.png")
        found[name] = file
    return [(file, name) for name, file in found.items()]


def _images(place: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    if place.is_file():
        yield place, Path(place.name)
        return
    if not place.is_dir():
        raise InputError(f"no image or folder {place}")
    files = [file for file in walk(place) if file.suffix.lower() in SUFFIXES]
    if place.resolve() != out:
        files = [file for file in files if out not in file.resolve().parents]
    if not files:
        raise InputError(f"{place} holds no image ({', '.join(sorted(SUFFIXES))})")
    for file in files:
        yield file, file.relative_to(place)
