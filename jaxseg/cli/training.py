"""A run of `jaxseg train`, from its command line to the report."""

import argparse
import contextlib
import time
from collections.abc import Callable

import jax
import numpy as np

from jaxseg import recipe as recipes
from jaxseg.cli import assemble, feeding, forecast, join, pages
from jaxseg.cli import evaluate as evaluation
from jaxseg.cli import report as reports
from jaxseg.cli.ahead import Ahead
from jaxseg.cli.folder import Facts, RunFolder
from jaxseg.cli.parts import make
from jaxseg.cli.progress import RunObserver, Unseen, console, summary
from jaxseg.cli.resume import forbidden_changes
from jaxseg.cli.train import Given
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe
from jaxseg.train.log import RunLog
from jaxseg.train.loop import Observer, Progress, Schedule, fit
from jaxseg.train.processes import alone, exchange, is_first, on_all, on_first
from jaxseg.train.stop import StopRequest


def run(options: argparse.Namespace, read: Callable[[], Given], ahead: Ahead | None) -> int:
    """Runs the command, one process of several or alone.

    Args:
        options: The command's own.
        read: Reads the recipe.
        ahead: What is loading already; None where nothing can be.
    """
    try:
        recipe, name, code = on_all(read)
        if options.dry_run:
            forecast.run(recipe, options.topology)
        else:
            folder = options.resume or options.run or on_first(lambda: _new_name(name))
            _train(recipe, folder, bool(options.resume), code, ahead)
    except Exception as error:
        if alone():
            raise
        join.leave(error)
    return 0


def _new_name(name: str) -> str:
    return f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _train(recipe: Recipe, folder: str, resume: bool, code: bytes, ahead: Ahead | None) -> None:
    run = RunFolder(folder)
    with contextlib.ExitStack() as lock:
        if resume:
            on_first(lambda: _lock(run, lock))
        else:
            on_first(run.check_new)  # before anything that takes time
        _train_in(run, lock, recipe, resume, code, ahead)


def _lock(run: RunFolder, lock: contextlib.ExitStack) -> None:
    lock.enter_context(run.locked())


def _check_equal(recipe: Recipe, facts: Facts) -> None:
    """All processes must train the same model on the same data."""
    seen = facts.without_environment()
    (first, seen_by_first), *others = exchange([recipes.to_dict(recipe), seen])
    for index, (other, seen_by_other) in enumerate(others, start=1):
        changed = forbidden_changes(recipes.from_dict(first), recipes.from_dict(other))
        changed += [
            f"{name}: {value!r} -> {seen_by_other[name]!r}"
            for name, value in seen_by_first.items()
            if value != seen_by_other[name]
        ]
        if changed:
            raise InputError(
                f"process {index} has another recipe or another data set than process 0; all need the same:\n  "
                + "\n  ".join(changed)
            )


def _train_in(
    run: RunFolder,
    lock: contextlib.ExitStack,
    recipe: Recipe,
    resume: bool,
    code: bytes,
    ahead: Ahead | None,
) -> None:
    shown = console(quiet=not is_first())
    stop = StopRequest()
    done = on_first(lambda: run.last.step) if resume else None
    parts = on_all(lambda: make(recipe, run, resume, done, code, ahead))
    recipe, facts, parallel, state = parts.recipe, parts.facts, parts.parallel, parts.state
    _check_equal(recipe, facts)
    schedule = Schedule(
        steps_per_epoch=facts.steps_per_epoch,
        epochs=recipe.train.epochs,
        log_every=recipe.train.log_every,
        patience=recipe.train.patience,
        max_skipped=recipe.train.max_skipped,
    )
    steps = schedule.epochs * schedule.steps_per_epoch
    progress = Progress()
    if done is not None:
        state, values = run.last.restore(state)
        progress = Progress(**values)
    start = int(state.step)
    counted = run.path / "class_pixels.i64"
    weights, pixels = on_all(
        lambda: feeding.weights_of(recipe, parts.train_source, counted, shown.print)
    )
    fed = on_all(
        lambda: (feeding.on_device if recipe.data.on_device else feeding.by_host)(
            recipe,
            facts,
            parts.train_source,
            parts.step,
            parallel,
            start=start,
            weights=weights,
            shard=(jax.process_index(), jax.process_count()),
        )
    )
    validate = evaluation.evaluator(
        recipe, facts, parts.network, parallel, parts.validation_source, stop
    )

    def begin() -> list[str]:
        if resume:
            recipes.save(recipe, run.path / "recipe.json")  # its data may have moved
        else:
            _lock(run, lock)  # only now: nothing in the recipe can be wrong any more
            run.create(recipe, facts)
        if pixels is not None:
            feeding.keep(counted, pixels)
        (run.path / "checkpoints").mkdir(exist_ok=True)
        return run.note_start(start)

    if changed := on_first(begin):
        shown.print(f"not what the run was started with, results may differ: {'; '.join(changed)}")
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    shown.print(
        f"{assemble.title(recipe.model)}: {count:,} parameters, {len(parts.train_source)} images to "
        f"train on, {len(parts.validation_source)} to validate on, {steps} steps from {start}; run folder {run.path}"
    )

    with stop.listening(), contextlib.ExitStack() as files:

        def observe() -> tuple[RunLog | None, Observer]:
            if not is_first():
                return None, Unseen()
            log = files.enter_context(RunLog(run.path))
            observer = RunObserver(
                log,
                shown,
                start=start,
                steps=steps,
                steps_per_epoch=schedule.steps_per_epoch,
                batch_size=recipe.train.batch_size,
                learning_rate=jax.jit(parts.learning_rate),
            )
            return log, files.enter_context(observer)

        log, observer = on_all(observe)
        if pixels is not None and log is not None:
            log.write({"kind": "classes", "step": 0, "pixels": pixels.sum(0).tolist()})
        state, progress = fit(
            state,
            pages.huge_from_second_call(fed.step),
            fed.batches,
            key=parallel.replicate(jax.random.key(recipe.train.seed)),
            schedule=schedule,
            validate=validate,
            last=run.last,
            best=run.best,
            observer=observer,
            stop=stop,
            progress=progress,
        )
        fed.batches.close()
        if stop.answered:
            shown.print(
                f"stopped at step {int(state.step)}, saved; go on with: jaxseg train --resume {run.path}"
            )
            return
        if recipe.data.test_split is not None:
            scores = evaluation.evaluate_run(run, recipe.data.test_split)
            row = {"kind": "test", "step": progress.best_step, **scores}
            del row["counts"]
            if log is not None:
                log.write(row)
            shown.print(f"test (step {progress.best_step})  {summary(scores)}")
    best = np.round(progress.best_mean_iou, 4)
    shown.print(f"best validation mIoU {best} at step {progress.best_step}")
    shown.print(f"report: {reports.write(run)}")
