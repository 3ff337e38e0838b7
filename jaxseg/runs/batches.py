"""A run's training batches: loaded by the host, or made on the devices; and the compiled step that takes them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import data
from jaxseg.data.device import augment
from jaxseg.data.device.augment.geometry import check_view
from jaxseg.data.host.prefetch import Batches
from jaxseg.errors import InputError
from jaxseg.parallel.processes import all_gather_objects
from jaxseg.recipe import AugmentRecipe, Recipe
from jaxseg.runs.build import Run
from jaxseg.train.multi_step import loops_on_host, make_multi_step

_ON_DEVICE = ("rotate", "elastic", "blur", "cutmix", "copy_paste", "mosaic")


@dataclass(frozen=True)
class TrainBatches:
    """Training batches and the step that takes them.

    Attributes:
        batches: An iterator without end; `close` ends it.
        step: `(state, batch, key) -> (state, logs)` for batches of this iterator.
    """

    batches: Batches
    step: Callable[[Any, Any, jax.Array], Any]


def check(recipe: Recipe) -> None:
    """Raises an `InputError` for fields of the recipe that exclude each other."""
    check_view(recipe.augment.crop_size or (1, 1), recipe.augment.scale)
    named = [name for name in _ON_DEVICE if getattr(recipe.augment, name)]
    if not recipe.data.on_device:
        if named:
            flags = ", ".join(f"--augment.{name.replace('_', '-')}" for name in named)
            raise InputError(f"{flags} exists on the device only: add --data.on-device")
        return
    if recipe.train.spatial_shards > 1 or recipe.train.fsdp:
        raise InputError(
            "--data.on-device needs whole images and a whole state on each device: leave out --train.spatial-shards and "
            "--train.fsdp"
        )


def check_augmentation(run: Run) -> None:
    """Raises an `InputError` for sizes and ranges that the augmentation cannot have."""
    device_augmentation(run) if run.recipe.data.on_device else host_augmentation(run)


def make_train_batches(
    run: Run, source: Any, step: Any, *, start: int, weights: np.ndarray | None
) -> TrainBatches:
    """Returns this process's part of the training batches from step `start` on.

    Args:
        run: The run.
        source: The training data.
        step: The compiled train step, as returned by `Parallel.compile`.
        start: The step to begin with.
        weights: Relative frequencies of the images `[L]`; None for passes over all images.

    Raises:
        InputError: Images of different sizes, or too little device memory for them (with `data.on_device`).
    """
    shard = (jax.process_index(), jax.process_count())
    make = _on_device if run.recipe.data.on_device else _on_host
    return make(run, source, step, start, weights, shard)


def host_augmentation(run: Run) -> "data.TrainAugment":  # whose module imports albumentations
    """Returns the recipe's augmentation on the host."""
    recipe = run.recipe.augment
    return data.TrainAugment(
        recipe.crop_size or run.info.image_size,
        scale=recipe.scale,
        flip=recipe.flip,
        photometric=recipe.photometric,
        targets=run.task.targets,
    )


def device_augmentation(run: Run) -> Callable[[Any, Any, jax.Array], Any]:
    """Returns the recipe's augmentation as a function that makes batches on the device."""
    recipe, targets = run.recipe.augment, run.task.targets
    view = augment.random_view(
        recipe.crop_size or run.info.image_size,
        scale=recipe.scale,
        rotate=recipe.rotate,
        flip=recipe.flip,
        elastic=recipe.elastic,
        targets=targets,
    )
    transforms = [view]
    if recipe.photometric:
        transforms.append(augment.random_colour())
    if recipe.blur:
        transforms.append(augment.random_blur(recipe.blur))
    return data.make_feed(augment.compose(*transforms), _mixes(run, recipe))


def _mixes(run: Run, recipe: AugmentRecipe) -> list[Any]:
    targets = run.task.targets
    mixes = []
    if recipe.mosaic:
        mixes.append(augment.random_mosaic(recipe.mosaic))
    if recipe.cutmix:
        mixes.append(augment.random_cutmix(recipe.cutmix))
    if recipe.copy_paste:
        classes = run.info.task.get("num_classes")
        if classes is None:
            raise InputError("--augment.copy-paste needs a task with classes")
        mixes.append(augment.random_copy_paste(max(classes, 2), recipe.copy_paste, targets=targets))
    return mixes


def sample_weights(
    recipe: Recipe, source: Any, cache: Path, report: Callable[[str], None]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns how often to sample each training image, and the pixels of each class that this follows from.

    Args:
        recipe: The recipe.
        source: The training data.
        cache: The file of the pixel counts, which a resumed run reads; `save_counts` writes it.
        report: Receives a line for each class.

    Returns:
        Weights `[L]` and counts `[L, K]`; None twice where all images are sampled equally.
    """
    temperature = recipe.data.rare_class_temperature
    if temperature is None:
        return None, None
    pixels = _read_counts(cache, source)
    if pixels is None:
        pixels = data.class_pixels(source)
    frequency = pixels.sum(0) / max(pixels.sum(), 1)
    probabilities = data.class_probabilities(pixels, temperature)
    for name, part, probability in zip(source.classes, frequency, probabilities, strict=False):
        report(
            f"class {name}: {part:.4%} of the labelled pixels, sampled {probability:.2%} of the time"
        )
    return data.rare_class_weights(pixels, temperature), pixels


def save_counts(file: Path, pixels: np.ndarray) -> None:
    """Writes pixel counts, so that a resumed run need not count again.

    Raises:
        InputError: They cannot be written.
    """
    unfinished = file.with_name("class_pixels.new")  # a kill leaves the old file intact, or none
    try:
        unfinished.write_bytes(pixels.astype("<i8").tobytes())
        unfinished.replace(file)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error}") from error


def _read_counts(file: Path, source: Any) -> np.ndarray | None:
    shape = len(source), max(source.num_classes, 2)
    if not file.exists() or file.stat().st_size != 8 * math.prod(shape):
        return None
    return np.fromfile(file, "<i8").astype(np.int64).reshape(shape)


def _on_host(
    run: Run, source: Any, step: Any, start: int, weights: np.ndarray | None, shard: tuple[int, int]
) -> TrainBatches:
    batches = data.train_batches(
        source,
        host_augmentation(run),
        batch_size=run.recipe.train.batch_size,
        seed=run.recipe.train.seed,
        targets=run.task.targets,
        start_step=start,
        num_workers=run.recipe.data.workers,
        shard=shard,
        weights=weights,
    )
    put = run.parallel.shard
    return TrainBatches(batches, lambda state, batch, key: step(state, put(batch), key))


def _on_device(
    run: Run, source: Any, step: Any, start: int, weights: np.ndarray | None, shard: tuple[int, int]
) -> TrainBatches:
    """On GPUs and TPUs all steps up to the next line of the log are one program. Every process reads the whole set."""
    recipe, parallel = run.recipe, run.parallel
    loaded = data.load(
        source,
        targets=run.task.targets,
        devices=parallel.devices,
        agree=lambda fits: all(all_gather_objects(fits)),
    )
    dataset = parallel.put(loaded.dataset, sharded=loaded.dataset.is_sharded)
    steps_from = make_multi_step(step.fn, device_augmentation(run), parallel)
    order = None if weights is None else data.weighted(weights)
    sampler = data.make_sampler(len(source), recipe.train.batch_size, order=order, shard=shard)
    together = 1 if loops_on_host(parallel) else recipe.train.log_every

    def chunks() -> Iterator[dict[str, Any]]:
        key, at = jax.random.key(recipe.train.seed), start
        unreadable = list(loaded.unreadable)
        while True:
            steps = 1 + min(-(at + 1) % together, -(at + 1) % run.info.steps_per_epoch)
            schedule = sampler(key, at, steps)
            names = [[loaded.names[i] for i in batch] for batch in schedule["index"].T]
            yield {
                "schedule": schedule,
                "names": names,
                "steps": steps,
                "unreadable": unreadable,
            }
            at, unreadable = at + steps, []

    def take_steps(state: Any, chunk: Any, key: jax.Array) -> Any:
        state, logs = steps_from(state, chunk["schedule"], dataset, key)
        skipped = logs["skipped_in_row"]  # of all steps; of other logs the last step's
        return state, jax.tree.map(lambda rows: rows[-1], logs) | {"skipped_in_row": skipped}

    return TrainBatches(Batches(chunks(), lambda: None), take_steps)
