"""Predicts image files with a trained run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax

from jaxseg import compiler
from jaxseg.data.decode import SUFFIXES, decode_image
from jaxseg.data.sources.file_pairs import walk
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.recipe import EvalRecipe
from jaxseg.runs.build import build
from jaxseg.runs.evaluation import load_variables
from jaxseg.runs.folder import RunFolder


class Predicted(NamedTuple):
    """The result of `predict`.

    Attributes:
        files: The files written for each image, by the image's path.
        problems: One message for each image that could not be read.
    """

    files: dict[Path, list[Path]]
    problems: list[str]


def predict(
    folder: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    checkpoint: str = "best",
    options: EvalRecipe | None = None,
) -> Predicted:
    """Predicts image files and writes the results, each at its image's own size.

    Args:
        folder: The run folder.
        images: An image file or a folder (with its subfolders), or several of them.
        out: The folder to write to. For semantic segmentation, each `NAME.jpg` gives `NAME.index.png` (class ids),
            `NAME.colour.png` and `NAME.overlay.png`.
        checkpoint: `"best"` or `"last"`.
        options: Windows, flips and scales; the run's own by default.

    Raises:
        InputError: The folder holds no intact run, a path does not exist, `out` cannot be written, or options are
            out of range.
    """
    run_folder, out = RunFolder(folder), Path(out)
    recipe = run_folder.recipe
    if options is not None:
        recipe = replace(recipe, eval=options)
    run = build(recipe, run_folder.info)
    paths = [images] if isinstance(images, str | Path) else images
    found = find_images(paths, out)
    variables = load_variables(run_folder, run, checkpoint)
    function = compiler.jit(
        make_predict(run.eval_model, run.task.predictions, preprocess=run.preprocess)
    )
    files: dict[Path, list[Path]] = {}
    problems = []
    for file, name in found:
        try:
            image = decode_image(file)
        except InputError as error:
            problems.append(str(error))
            continue
        prediction = jax.device_get(jax.tree.map(lambda x: x[0], function(variables, image[None])))
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files[file] = run.task.save(image, prediction, path)
        except OSError as error:
            raise InputError(f"cannot write to {out}: {error}") from error
    return Predicted(files, problems)


def find_images(paths: Sequence[str | Path], out: Path) -> list[tuple[Path, Path]]:
    """Returns every image among the paths and in folders among them, with its path below the output folder.

    Hidden files are left out, and so is what an earlier call wrote into `out`.

    Returns:
        Pairs of the file and its path without suffix below the folder that was named; with its suffix, where images
        differ in nothing else.

    Raises:
        InputError: A path does not exist, a folder holds no image, or two images would have the same name.
    """
    names = {}
    for path in map(Path, paths):
        for file, name in _images(path, out.resolve()):
            names.setdefault(file.resolve(), (file, name))
    times = Counter(name.with_suffix("") for _, name in names.values())
    found: dict[Path, Path] = {}
    for file, name in names.values():
        name = name.with_suffix("") if times[name.with_suffix("")] == 1 else name
        if name in found:
            raise InputError(f"{file} and {found[name]} would both be written as {name}.*.png")
        found[name] = file
    return [(file, name) for name, file in found.items()]


def _images(path: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    if path.is_file():
        yield path, Path(path.name)
        return
    if not path.is_dir():
        raise InputError(f"no image or folder {path}")
    files = [file for file in walk(path) if file.suffix.lower() in SUFFIXES]
    if path.resolve() != out:
        files = [file for file in files if out not in file.resolve().parents]
    if not files:
        raise InputError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
    for file in files:
        yield file, file.relative_to(path)
