"""`jaxseg datasets show|check [RECIPE.py] [--field value ...]`: what the network will see, and whether it can."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from rich.table import Table

from jaxseg import data
from jaxseg.cli import arguments, assemble, feeding, sources
from jaxseg.cli.progress import console
from jaxseg.data.check import check
from jaxseg.errors import InputError, unknown
from jaxseg.recipe import Recipe
from jaxseg.report.overlay import colorize, overlay

_DESCRIPTION = """Look at a data set before training on it.

  jaxseg datasets show [RECIPE.py] [--out FILE.png] [--split train] [--count 8] [--field value ...]
      draws samples as the network will see them, after augmentation: image, mask, overlay
  jaxseg datasets check [RECIPE.py] [--split SPLIT] [--field value ...]
      reads every image and mask of a split (or of each) and lists what cannot be trained on

Every field of the recipe is an option:"""


def main(argv: Sequence[str]) -> int:
    """Shows or checks the recipe's data set."""
    commands = {"show": _show, "check": _check}
    if not argv or argv[0] in ("-h", "--help"):
        print(_DESCRIPTION.rsplit("\n\n", 1)[0])
        return 0
    if argv[0] not in commands:
        raise unknown("datasets command", argv[0], commands)
    recipe, rest = arguments.recipe_and_fields(argv[1:])
    parser = arguments.parser(f"datasets {argv[0]}", "")
    parser = type(parser)(prog=parser.prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--split")
    parser.add_argument("--out", default="samples.png")
    parser.add_argument("--count", type=int, default=8)
    options, fields = parser.parse_known_args(rest)
    recipe = arguments.override(
        recipe or Recipe(), fields, prog=parser.prog, description=_DESCRIPTION
    )
    return commands[argv[0]](recipe, options)


def _show(recipe: Recipe, options: Any) -> int:
    if options.count < 1:
        raise InputError(f"--count is {options.count}; at least 1 sample is drawn")
    split = options.split or recipe.data.train_split
    source = sources.open_source(recipe.data, split)
    batch = _batch(recipe, source, options.count)
    palette = np.asarray(source.palette)
    rows = []
    for image, label in zip(batch["image"], batch["label"], strict=True):
        colours = colorize(label, palette, ignore_index=source.ignore_index)
        blended = overlay(image, label, palette, ignore_index=source.ignore_index)
        shown = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
        rows.append(np.concatenate([shown, colours, blended], axis=1))
    out = Path(options.out)
    try:
        Image.fromarray(np.concatenate(rows)).save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out}: {error}") from error
    console().print(f"{options.count} samples of {split}: image, mask, overlay: {out}")
    return 0


def _batch(recipe: Recipe, source: Any, count: int) -> Any:
    """The first images of a run with batches of so many, as its network will see them."""
    feeding.check(recipe)
    if not recipe.data.on_device:
        size = source[0]["image"].shape[:2]
        augment = assemble.augmentation(recipe.augment, size, source.ignore_index)
        with data.train_batches(
            source, augment, batch_size=count, seed=recipe.train.seed
        ) as batches:
            return next(batches)
    facts = assemble.resolve(recipe, source)
    key = jax.random.key(recipe.train.seed)
    drawn = data.make_places(len(source), count)(key, 0, 1)
    first = {name: array[:, 0] for name, array in drawn.items()}
    dataset = data.load(source, devices=jax.local_devices()[:1]).dataset
    batch = jax.jit(feeding.feed(recipe.augment, facts))(dataset, first, key)
    return jax.device_get(batch)


def _check(recipe: Recipe, options: Any) -> int:
    named = (recipe.data.train_split, recipe.data.validation_split, recipe.data.test_split)
    splits = [options.split] if options.split else [split for split in named if split]
    shown = console()
    problems = []
    for split in dict.fromkeys(splits):
        try:
            source = sources.open_source(recipe.data, split)
        except InputError as error:
            problems.append(f"{split}: {error}")
            continue
        found = check(source)
        table = Table("class", "id", "pixels", "images", title=f"{split}: {len(source)} images")
        for index, name in enumerate(source.classes):
            table.add_row(name, str(index), f"{found.pixels[index]:,}", f"{found.images[index]:,}")
        table.add_row("ignored", str(source.ignore_index), f"{found.ignored:,}", "")
        shown.print(table)
        shown.print(
            "sizes (height x width: images): "
            + ", ".join(f"{h}x{w}: {count}" for (h, w), count in list(found.sizes.items())[:12])
        )
        for note in found.notes:
            shown.print(f"note: {note}")
        problems += [f"{split}: {problem}" for problem in found.problems]
    if problems:
        raise InputError(f"{len(problems)} problems:\n  " + "\n  ".join(problems))
    shown.print("no problem found")
    return 0
