"""Where a run's batches come from, and the step that takes them: loaded by the host, or made on the devices."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import data
from jaxseg.cli import assemble
from jaxseg.cli.folder import Facts
from jaxseg.data import device_augment
from jaxseg.data.ranges import check_view
from jaxseg.data.workers import Batches
from jaxseg.errors import InputError
from jaxseg.recipe import AugmentRecipe, Recipe
from jaxseg.train.epoch import Run, make_run, runs_in_python
from jaxseg.train.parallel import Parallel
from jaxseg.train.parallel_step import ParallelStep
from jaxseg.train.processes import exchange

_ON_DEVICE = ("rotate", "elastic", "blur", "cutmix", "copy_paste", "mosaic")


@dataclass(frozen=True)
class Feeding:
    """Batches without end, which `close` ends, and the compiled step that takes them."""

    batches: Batches
    step: Callable[[Any, Any, jax.Array], Any]


def check(recipe: Recipe) -> None:
    """Raises an `InputError` for fields that do not go together, and for views that no step need be traced for."""
    check_view(recipe.augment.crop_size or (1, 1), recipe.augment.scale)
    given = [name for name in _ON_DEVICE if getattr(recipe.augment, name)]
    if not recipe.data.on_device:
        if given:
            flags = ", ".join(f"--augment.{name.replace('_', '-')}" for name in given)
            raise InputError(f"{flags} is done on the device alone: add --data.on-device")
        return
    if recipe.train.bands > 1 or recipe.train.cut_state:
        raise InputError(
            "--data.on-device goes with whole images and a whole state: leave out --train.bands and --train.cut-state"
        )


def check_augmentation(recipe: Recipe, facts: Facts) -> None:
    """Raises an `InputError` for sizes and ranges that no augmentation can have."""
    if recipe.data.on_device:
        feed(recipe.augment, facts)
    else:
        assemble.augmentation(recipe.augment, facts.image_size, facts.ignore_index)


def by_host(
    recipe: Recipe,
    facts: Facts,
    source: Any,
    step: ParallelStep,
    parallel: Parallel,
    *,
    start: int,
    weights: np.ndarray | None,
    shard: tuple[int, int] = (0, 1),
) -> Feeding:
    """Batches that the host loads and augments, from the step `start` on; `shard` is (index, number) of processes."""
    batches = data.train_batches(
        source,
        assemble.augmentation(recipe.augment, facts.image_size, facts.ignore_index),
        batch_size=recipe.train.batch_size,
        seed=recipe.train.seed,
        start_step=start,
        num_workers=recipe.data.workers,
        shard=shard,
        weights=weights,
    )
    return Feeding(batches, lambda state, batch, key: step(state, parallel.shard(batch), key))


def on_device(
    recipe: Recipe,
    facts: Facts,
    source: Any,
    step: ParallelStep,
    parallel: Parallel,
    *,
    start: int,
    weights: np.ndarray | None,
    shard: tuple[int, int] = (0, 1),
) -> Feeding:
    """Batches that are made on the devices, from a training set that is kept there.

    On GPUs and TPUs all steps up to the next line of the log are one program. Every process reads the whole set.

    Raises:
        InputError: The images differ in size, or the devices have no room for them.
    """
    loaded = data.load(source, devices=parallel.devices, agree=lambda fits: all(exchange(fits)))
    dataset = parallel.keep(loaded.dataset, cut=loaded.dataset.is_cut)
    run = make_run(step.fn, feed(recipe.augment, facts), parallel)
    order = None if weights is None else data.drawn(weights)
    places = data.make_places(len(source), recipe.train.batch_size, order=order, shard=shard)
    together = 1 if runs_in_python(parallel) else recipe.train.log_every

    def chunks() -> Iterator[dict[str, Any]]:
        key, at = jax.random.key(recipe.train.seed), start
        unreadable = list(loaded.unreadable)
        while True:
            ends = (-(at + 1) % together, -(at + 1) % facts.steps_per_epoch)
            steps = 1 + min(ends)
            drawn = places(key, at, steps)
            names = [[loaded.names[i] for i in batch] for batch in drawn["index"].T]
            yield {"places": drawn, "names": names, "steps": steps, "unreadable": unreadable}
            at, unreadable = at + steps, []

    return Feeding(Batches(chunks(), lambda: None), _last_logs(run, dataset))


def feed(recipe: AugmentRecipe, facts: Facts) -> Any:
    """The recipe's augmentation as a function that makes batches on the device."""
    size = recipe.crop_size or facts.image_size
    transforms = [
        device_augment.random_view(
            size,
            scale=recipe.scale,
            rotate=recipe.rotate,
            flip=recipe.flip,
            elastic=recipe.elastic,
            ignore_index=facts.ignore_index,
        )
    ]
    if recipe.photometric:
        transforms.append(device_augment.random_colour())
    if recipe.blur:
        transforms.append(device_augment.random_blur(recipe.blur))
    mixes = {
        "mosaic": device_augment.random_mosaic,
        "cutmix": device_augment.random_cutmix,
        "copy_paste": lambda probability: device_augment.random_copy_paste(
            max(facts.num_classes, 2), probability
        ),
    }
    chosen = [make(getattr(recipe, name)) for name, make in mixes.items() if getattr(recipe, name)]
    return data.make_feed(device_augment.compose(*transforms), chosen)


def weights_of(recipe: Recipe, source: Any, kept: Path, say: Callable[[str], None]) -> Any:
    """How often each training image is drawn, None where each is in turn; classes are counted once for a run.

    Args:
        recipe: The recipe.
        source: The training images.
        kept: The file of the counts, which a resumed run reads; `keep` writes it once there is a run folder.
        say: Told of the classes' frequencies.

    Returns:
        The weights and the counts `[L, K]`, or None twice.
    """
    temperature = recipe.data.rare_class_temperature
    if temperature is None:
        return None, None
    pixels = _kept(kept, source)
    if pixels is None:
        pixels = data.class_pixels(source)
    frequency = pixels.sum(0) / max(pixels.sum(), 1)
    drawn = data.class_probabilities(pixels, temperature)
    for name, part, chance in zip(source.classes, frequency, drawn, strict=False):
        say(f"class {name}: {part:.4%} of the labelled pixels, drawn {chance:.2%} of the time")
    return data.rare_class_weights(pixels, temperature), pixels


def keep(file: Path, pixels: np.ndarray) -> None:
    """Writes what was counted, so that a resumed run need not count again.

    Raises:
        InputError: It cannot be written.
    """
    aside = file.with_name("class_pixels.new")  # a kill leaves the old one whole, or none
    try:
        aside.write_bytes(pixels.astype("<i8").tobytes())
        aside.replace(file)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error}") from error


def _kept(file: Path, source: Any) -> np.ndarray | None:
    shape = len(source), max(source.num_classes, 2)
    if not file.exists() or file.stat().st_size != 8 * math.prod(shape):
        return None
    return np.fromfile(file, "<i8").astype(np.int64).reshape(shape)


def _last_logs(run: Run, dataset: Any) -> Callable[[Any, Any, jax.Array], Any]:
    """The run as the training loop takes it: the logs of its last step, but of all steps which updates were skipped."""

    def step(state: Any, chunk: Any, key: jax.Array) -> Any:
        state, logs = run(state, chunk["places"], dataset, key)
        skipped = logs["skipped_in_row"]
        return state, jax.tree.map(lambda rows: rows[-1], logs) | {"skipped_in_row": skipped}

    return step
