"""`jaxseg train [RECIPE.py] [--run DIR | --resume RUN] [--field value ...]`: trains and writes a run folder."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxseg import pretrained
from jaxseg import recipe as recipes
from jaxseg.cli import arguments, assemble, feeding, forecast
from jaxseg.cli import evaluate as evaluation
from jaxseg.cli import report as reports
from jaxseg.cli.folder import RunFolder
from jaxseg.cli.progress import RunObserver, console, summary
from jaxseg.data.check import check_sample
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe
from jaxseg.train.finite import skip_nonfinite
from jaxseg.train.log import RunLog
from jaxseg.train.loop import Progress, Schedule, StopRequest, fit
from jaxseg.train.state import create_state
from jaxseg.train.step import make_train_step

_DESCRIPTION = """Train a model and write a run folder: checkpoints, metrics.jsonl, TensorBoard files, report.html.

  jaxseg train                                   the embedded shapes set
  jaxseg train experiments/camvid_unet.py --data.root DIR
  jaxseg train --resume RUN                      go on where RUN stopped

  --run DIR      the run folder to make (default: runs/NAME-DATE-TIME)
  --resume RUN   a run folder to go on with; its own recipe is used
  --dry-run      compile the step and say what each device needs; nothing is trained
  --topology T   with --dry-run: TPUs that need not be there, such as v5e:16x16 (pip install libtpu)

Every field of the recipe is an option:"""


def main(argv: Sequence[str]) -> int:
    """Trains, or goes on with a run."""
    given, rest = arguments.recipe_and_fields(argv)
    name = Path(argv[0]).stem if given is not None else "shapes"
    own = arguments.parser("train", _DESCRIPTION)
    own = type(own)(prog="jaxseg train", add_help=False, allow_abbrev=False)
    own.add_argument("--run")
    own.add_argument("--resume")
    own.add_argument("--dry-run", action="store_true")
    own.add_argument("--topology")
    options, fields = own.parse_known_args(rest)
    if options.run and options.resume:
        raise InputError("--run names a new run and --resume an old one: give one of them")
    if options.topology and not options.dry_run:
        raise InputError(
            "--topology goes with --dry-run: what is trained on is the devices there are"
        )
    stored = RunFolder(options.resume).recipe if options.resume else None
    start = given or stored or Recipe()
    recipe = arguments.override(start, fields, prog="jaxseg train", description=_DESCRIPTION)
    if stored is not None and (changed := _changed(stored, recipe)):
        raise InputError(
            f"{options.resume} was started with another recipe; a resumed run keeps its own:\n  "
            + "\n  ".join(changed)
        )
    if options.dry_run:
        forecast.run(recipe, options.topology)
        return 0
    _train(recipe, options.resume or options.run or _new_name(name), bool(options.resume))
    return 0


def _changed(stored: Recipe, recipe: Recipe) -> list[str]:
    """How two recipes differ, but for what the result does not depend on: where the data lie, who loads them."""
    lines = recipes.differences(stored, recipe)
    free = ("data.root:", "data.manual_dir:", "data.workers:")
    return [line for line in lines if not line.startswith(free)]


def _new_name(name: str) -> str:
    return f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _train(recipe: Recipe, folder: str, resume: bool) -> None:
    run = RunFolder(folder)
    with contextlib.ExitStack() as lock:
        if resume:
            lock.enter_context(run.locked())
        else:
            run.check_new()  # before anything that takes time
        _train_in(run, lock, recipe, resume)


def _train_in(run: RunFolder, lock: contextlib.ExitStack, recipe: Recipe, resume: bool) -> None:
    shown = console()
    stop = StopRequest()
    named = dataclasses.replace(recipe.model, encoder=assemble.encoder_of(recipe.model))
    recipe = dataclasses.replace(recipe, model=named)  # the run folder says what it was
    train_source = assemble.open_source(recipe.data, recipe.data.train_split)
    validation_source = assemble.open_source(recipe.data, recipe.data.validation_split)
    if recipe.data.test_split is not None:
        assemble.open_source(
            recipe.data, recipe.data.test_split
        )  # better missed now than at the end
    feeding.check(recipe)
    check_sample(train_source)
    check_sample(validation_source)
    facts = run.facts if resume else assemble.resolve(recipe, train_source)
    if facts.train_images != len(train_source):
        raise InputError(
            f"{run.path} was started with {facts.train_images} training images, now there are {len(train_source)}: "
            "a resumed run needs the same"
        )
    network = assemble.network(recipe.model, facts)
    parallel = assemble.parallel(recipe)
    loss = assemble.loss(recipe, facts)
    schedule = Schedule(
        steps_per_epoch=facts.steps_per_epoch,
        epochs=recipe.train.epochs,
        log_every=recipe.train.log_every,
        patience=recipe.train.patience,
        max_skipped=recipe.train.max_skipped,
    )
    steps = schedule.epochs * schedule.steps_per_epoch
    learning_rate = assemble.learning_rate(recipe, steps)
    optimizer = assemble.optimizer(recipe, learning_rate)

    goes_on = resume and run.last.step is not None
    variables = network.init(recipe.train.seed)
    if facts.pretrained is not None and not goes_on:
        variables = pretrained.load(network.model, variables, facts.pretrained)
    state = parallel.replicate(
        create_state(variables, optimizer, ema=recipe.train.ema_decay is not None)
    )
    progress = Progress()
    if goes_on:
        state, values = run.last.restore(state)
        progress = Progress(**values)
    step = skip_nonfinite(
        make_train_step(
            network.model,
            optimizer,
            loss,
            preprocess=network.preprocess,
            **assemble.step_options(recipe),
        )
    )
    start = int(state.step)
    counted = run.path / "class_pixels.npy"
    weights, pixels = feeding.weights_of(recipe, train_source, counted, shown.print)
    fed = (feeding.on_device if recipe.data.on_device else feeding.by_host)(
        recipe, facts, train_source, step, parallel, start=start, weights=weights
    )
    validate = evaluation.evaluator(recipe, facts, network, parallel, validation_source, stop)
    if resume:
        recipes.save(recipe, run.path / "recipe.json")  # its data may have moved
    else:
        lock.enter_context(run.locked())  # only now: nothing in the recipe can be wrong any more
        run.create(recipe, facts)
    if pixels is not None:
        feeding.keep(counted, pixels)
    (run.path / "checkpoints").mkdir(exist_ok=True)
    if changed := run.note_start(start):
        shown.print(f"not what the run was started with, results may differ: {'; '.join(changed)}")
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    shown.print(
        f"{assemble.title(recipe.model)}: {count:,} parameters, {len(train_source)} images to "
        f"train on, {len(validation_source)} to validate on, {steps} steps from {start}; run folder {run.path}"
    )

    with (
        stop.listening(),
        RunLog(run.path) as log,
        RunObserver(
            log,
            shown,
            start=start,
            steps=steps,
            steps_per_epoch=schedule.steps_per_epoch,
            batch_size=recipe.train.batch_size,
            learning_rate=learning_rate,
        ) as observer,
    ):
        if pixels is not None:
            log.write({"kind": "classes", "step": 0, "pixels": pixels.sum(0).tolist()})
        state, progress = fit(
            state,
            fed.step,
            fed.batches,
            key=jax.random.key(recipe.train.seed),
            schedule=schedule,
            validate=validate,
            last=run.last,
            best=run.best,
            observer=observer,
            stop=stop,
            progress=progress,
        )
        fed.batches.close()
        if stop.requested and progress.validated_step < steps:
            shown.print(
                f"stopped at step {int(state.step)}, saved; go on with: jaxseg train --resume {run.path}"
            )
            return
        if recipe.data.test_split is not None:
            scores = evaluation.evaluate_run(run, recipe.data.test_split)
            row = {"kind": "test", "step": progress.best_step, **scores}
            del row["counts"]
            log.write(row)
            shown.print(f"test (step {progress.best_step})  {summary(scores)}")
    best = np.round(progress.best_mean_iou, 4)
    shown.print(f"best validation mIoU {best} at step {progress.best_step}")
    shown.print(f"report: {reports.write(run)}")
