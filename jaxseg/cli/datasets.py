"""`jaxseg datasets show|check [RECIPE.py] [--field value ...]`: shows or checks a data set before training."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from jaxseg import data
from jaxseg.cli import arguments
from jaxseg.cli.tables import print_table
from jaxseg.errors import InputError, unknown
from jaxseg.recipe import Recipe
from jaxseg.runs import batches as train_batches
from jaxseg.runs.build import Run, build, complete
from jaxseg.runs.info import resolve
from jaxseg.runs.progress import console
from jaxseg.runs.sources import open_source
from jaxseg.tasks import find_task

_DESCRIPTION = """Look at a data set before training on it.

  jaxseg datasets show [RECIPE.py] [--out FILE.png] [--split train] [--count 8] [--field value ...]
      draws samples as the network will see them, after augmentation: image, target, overlay
  jaxseg datasets check [RECIPE.py] [--split SPLIT] [--field value ...]
      reads every record of a split (or of each) and lists what cannot be trained on

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
    prog = f"jaxseg datasets {argv[0]}"
    parser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--split")
    parser.add_argument("--out", type=arguments.path, default="samples.png")
    parser.add_argument("--count", type=int, default=8)
    options, fields = parser.parse_known_args(rest)
    recipe = arguments.override(recipe or Recipe(), fields, prog=prog, description=_DESCRIPTION)
    return commands[argv[0]](recipe, options)


def _show(recipe: Recipe, options: Any) -> int:
    if options.count < 1:
        raise InputError(f"--count is {options.count}; at least 1 sample is drawn")
    split = options.split or recipe.data.train_split
    source = open_source(recipe.data, split)
    train_batches.check(recipe)
    info = resolve(recipe, source)
    run = build(complete(recipe, info), info)
    batch = _first_batch(run, source, options.count)
    rows = []
    for index, image in enumerate(batch["image"]):
        sample = {name: batch[name][index] for name in ("image", *run.task.targets)}
        shown = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
        pictures = run.task.draw(image, run.task.truth(sample))
        rows.append(np.concatenate([shown, *pictures], axis=1))
    out = Path(options.out)
    try:
        Image.fromarray(np.concatenate(rows)).save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out}: {error}") from error
    console().print(f"{options.count} samples of {split}: {out}")
    return 0


def _first_batch(run: Run, source: Any, count: int) -> Any:
    """Returns the first training batch of `count` images, on the host."""
    seed = run.recipe.train.seed
    if not run.recipe.data.on_device:
        augment = train_batches.host_augmentation(run)
        options = {"batch_size": count, "seed": seed, "targets": run.task.targets}
        with data.train_batches(source, augment, **options) as batches:
            return next(batches)
    key = jax.random.key(seed)
    schedule = data.make_sampler(len(source), count)(key, 0, 1)
    first = {name: array[:, 0] for name, array in schedule.items()}
    devices = jax.local_devices()[:1]
    dataset = data.load(source, targets=run.task.targets, devices=devices).dataset
    make_batch = jax.jit(train_batches.device_augmentation(run))
    return jax.device_get(make_batch(dataset, first, key))


def _check(recipe: Recipe, options: Any) -> int:
    named = (recipe.data.train_split, recipe.data.validation_split, recipe.data.test_split)
    splits = [options.split] if options.split else [split for split in named if split]
    shown, problems = console(), []
    for split in dict.fromkeys(splits):
        try:
            source = open_source(recipe.data, split)
        except InputError as error:
            problems.append(f"{split}: {error}")
            continue
        found = find_task(recipe.task).from_source(source).inspect(source)
        for table in found.tables:
            print_table(table._replace(title=f"{split}: {table.title}".rstrip(": ")), shown)
        for note in found.notes:
            shown.print(f"note: {note}")
        problems += [f"{split}: {problem}" for problem in found.problems]
    if problems:
        raise InputError(f"{len(problems)} problems:\n  " + "\n  ".join(problems))
    shown.print("no problem found")
    return 0
