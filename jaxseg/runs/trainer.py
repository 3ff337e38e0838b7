"""Trains a recipe in a run folder: open, build, initialize, load, fit, finish."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import pretrained
from jaxseg import recipe as recipes
from jaxseg.errors import InputError
from jaxseg.parallel.processes import (
    all_gather_objects,
    is_first_process,
    on_all_processes,
    on_first_process,
)
from jaxseg.recipe import Recipe
from jaxseg.runs import batches as train_batches
from jaxseg.runs.build import Run, build, complete
from jaxseg.runs.evaluation import evaluate, make_evaluate
from jaxseg.runs.folder import RunFolder, forbidden_changes
from jaxseg.runs.info import resolve, task_of
from jaxseg.runs.log import RunLog
from jaxseg.runs.loop import Progress, Schedule, fit
from jaxseg.runs.observer import Observer, combine
from jaxseg.runs.progress import console, log_observer, progress_observer, with_speed
from jaxseg.runs.reporting import report
from jaxseg.runs.sources import open_source
from jaxseg.runs.stop import StopRequest
from jaxseg.train.init import init


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Trains a recipe and writes a run folder: checkpoints, `metrics.jsonl`, TensorBoard files, `report.html`.

    Ctrl-C and SIGTERM end the run after the step in flight; its state is saved, and the run can be resumed.

    Args:
        recipe: The recipe.
        folder: The run folder: a new one, or with `resume` the one to continue.
        resume: Whether to continue a run, with the recipe that it was started with.
        observers: Called as the run proceeds, in the first process alone.
        quiet: Whether to show no progress.

    Returns:
        The scores of the best epoch on the validation split; None where the run was stopped.

    Raises:
        InputError: The recipe, its data or the folder cannot be used. The message says what to change.

    >>> from jaxseg import Recipe, runs
    >>> runs.train(Recipe(), "runs/shapes")  # doctest: +SKIP
    """
    run_folder, stop = RunFolder(folder), StopRequest()
    shown = console(quiet=quiet or not is_first_process())
    with contextlib.ExitStack() as stack:
        if resume:
            on_first_process(lambda: stack.enter_context(run_folder.locked()))
        else:
            on_first_process(run_folder.check_new)  # before anything that takes time
        opened = on_all_processes(lambda: _open(recipe, run_folder, resume))
        run = opened.run
        _check_processes_agree(run)
        step = run.parallel.compile(run.train_step())
        if not run.recipe.data.on_device:  # there the step is part of a larger program
            step.compile_in_background(run.state_like(), run.batch_like(), jax.random.key(0))
        state, progress = _initialize(run, run_folder, resume)
        loaded = on_all_processes(
            lambda: _load(run, opened, run_folder, step, int(state.step), shown)
        )
        if not resume:  # the folder is made once nothing in the recipe can be wrong any more
            on_first_process(lambda: stack.enter_context(run_folder.locked()))
        on_first_process(lambda: _write_folder(run, run_folder, resume, loaded.pixels))
        _announce(run, opened, run_folder, int(state.step), shown)
        with stop.listening():
            log, observer = on_all_processes(
                lambda: _observe(run, run_folder, int(state.step), observers, shown, stack)
            )
            if log is not None and loaded.pixels is not None:
                log.write({"kind": "classes", "step": 0, "pixels": loaded.pixels.sum(0).tolist()})
            state, progress = _fit(run, run_folder, state, progress, loaded, opened, observer, stop)
            if stop.answered:
                shown.print(
                    f"stopped at step {int(state.step)}, saved; go on with: jaxseg train --resume {run_folder.path}"
                )
                return None
            return _finish(run, run_folder, progress, observer, shown)


@dataclass(frozen=True)
class _Opened:
    run: Run
    train_source: Any
    validation_source: Any


@dataclass(frozen=True)
class _Loaded:
    batches: train_batches.TrainBatches
    pixels: np.ndarray | None


def _open(recipe: Recipe, folder: RunFolder, resume: bool) -> _Opened:
    """Opens the data, resolves what the recipe leaves to it, and builds everything that the recipe names."""
    recipe = recipes.checked(recipe)
    sources = [
        open_source(recipe.data, split)
        for split in (recipe.data.train_split, recipe.data.validation_split)
    ]
    if recipe.data.test_split is not None:
        open_source(recipe.data, recipe.data.test_split)  # better missed now than at the end
    train_batches.check(recipe)
    info = folder.info if resume else resolve(recipe, sources[0])
    recipe = complete(recipe, info)
    if resume and (changed := forbidden_changes(folder.recipe, recipe)):
        raise InputError(
            f"{folder.path} was started with another recipe; a resumed run keeps its own:\n  "
            + "\n  ".join(changed)
        )
    if info.train_images != len(sources[0]):
        raise InputError(
            f"{folder.path} was started with {info.train_images} training images, now there are {len(sources[0])}: a "
            "resumed run needs the same"
        )
    for source in sources:
        task_of(recipe, info).check_sample(source)
    run = build(recipe, info)
    train_batches.check_augmentation(run)
    _ = run.parallel  # raises where the devices do not fit
    return _Opened(run, *sources)


def _check_processes_agree(run: Run) -> None:
    """All processes must train the same model on the same data."""
    mine = [recipes.to_dict(run.recipe), run.info.without_environment()]
    (first, first_info), *others = all_gather_objects(mine)
    for index, (other, other_info) in enumerate(others, start=1):
        changed = forbidden_changes(recipes.from_dict(first), recipes.from_dict(other))
        changed += [
            f"{name}: {value!r} -> {other_info[name]!r}"
            for name, value in first_info.items()
            if value != other_info[name]
        ]
        if changed:
            raise InputError(
                f"process {index} has another recipe or another data set than process 0; all need the same:\n  "
                + "\n  ".join(changed)
            )


def _initialize(run: Run, folder: RunFolder, resume: bool) -> tuple[Any, Progress]:
    """Returns the state to begin with: random or pretrained variables, or those of the last checkpoint."""
    key = jax.random.key(run.recipe.train.seed)
    variables = init(run.model, key, channels=run.info.channels)
    resumed = resume and on_first_process(lambda: folder.last.step) is not None
    if run.info.pretrained is not None and not resumed:
        variables = pretrained.load(run.model, variables, run.info.pretrained)
    state = run.parallel.replicate(run.create_state(variables), donate=True)
    if not resumed:
        return state, Progress()
    state, values = folder.last.restore(state)
    return state, Progress(**values)


def _load(
    run: Run, opened: _Opened, folder: RunFolder, step: Any, start: int, shown: Any
) -> _Loaded:
    """Returns the training batches from the state's step on."""
    weights, pixels = train_batches.sample_weights(
        run.recipe, opened.train_source, folder.path / "class_pixels.i64", shown.print
    )
    batches = train_batches.make_train_batches(
        run, opened.train_source, step, start=start, weights=weights
    )
    return _Loaded(batches, pixels)


def _write_folder(run: Run, folder: RunFolder, resume: bool, pixels: np.ndarray | None) -> None:
    if resume:
        recipes.save(run.recipe, folder.path / "recipe.json")  # its data may have moved
    else:
        folder.create(run.recipe, run.info)
    if pixels is not None:
        train_batches.save_counts(folder.path / "class_pixels.i64", pixels)
    (folder.path / "checkpoints").mkdir(exist_ok=True)


def _announce(run: Run, opened: _Opened, folder: RunFolder, start: int, shown: Any) -> None:
    if changed := on_first_process(lambda: folder.record_start(start)):
        shown.print(f"not what the run was started with, results may differ: {'; '.join(changed)}")
    count = sum(leaf.size for leaf in jax.tree.leaves(run.variables_like["params"]))
    shown.print(
        f"{run.title}: {count:,} parameters, {len(opened.train_source)} images to train on, "
        f"{len(opened.validation_source)} to validate on, {run.steps} steps from {start}; run folder {folder.path}"
    )


def _observe(
    run: Run,
    folder: RunFolder,
    start: int,
    observers: Sequence[Observer],
    shown: Any,
    stack: contextlib.ExitStack,
) -> tuple[RunLog | None, Observer]:
    """Returns the log and everything that is called during the run; nothing but in the first process."""
    if not is_first_process():
        return None, Observer()
    log = stack.enter_context(RunLog(folder.path))
    per_epoch = run.info.steps_per_epoch
    progress = stack.enter_context(
        progress_observer(
            shown,
            start=start,
            steps=run.steps,
            steps_per_epoch=per_epoch,
            summary=run.task.summary,
        )
    )
    observer = with_speed(
        combine([log_observer(log), progress, *observers]),
        start=start,
        steps_per_epoch=per_epoch,
        batch_size=run.recipe.train.batch_size,
        learning_rate=jax.jit(run.learning_rate),
    )
    return log, observer


def _fit(
    run: Run,
    folder: RunFolder,
    state: Any,
    progress: Progress,
    loaded: _Loaded,
    opened: _Opened,
    observer: Observer,
    stop: StopRequest,
) -> tuple[Any, Progress]:
    options = run.recipe.train
    with contextlib.closing(loaded.batches.batches):
        return fit(
            state,
            loaded.batches.step,
            loaded.batches.batches,
            key=run.parallel.replicate(jax.random.key(options.seed)),
            schedule=Schedule(
                steps_per_epoch=run.info.steps_per_epoch,
                epochs=options.epochs,
                log_every=options.log_every,
                patience=options.patience,
                max_skipped=options.max_skipped,
            ),
            validate=make_evaluate(run, opened.validation_source, stop),
            last=folder.last,
            best=folder.best,
            headline=run.task.headline,
            observer=observer,
            stop=stop,
            progress=progress,
        )


def _finish(
    run: Run, folder: RunFolder, progress: Progress, observer: Observer, shown: Any
) -> dict[str, Any]:
    """Evaluates the test split, writes the report and returns the best validation scores."""
    headline = run.task.headline
    if run.recipe.data.test_split is not None:
        scores = evaluate(folder.path, run.recipe.data.test_split)
        observer.on_test(progress.best_step, scores)
    best = np.nan if progress.best_score is None else np.round(progress.best_score, 4)
    shown.print(f"best validation {headline.title} {best} at step {progress.best_step}")
    shown.print(f"report: {report(folder.path)}")
    return folder.best.restore(run.variables_like)[1]
