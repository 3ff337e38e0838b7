"""What a run is made of, from its recipe: data, network, step and state, made in the order that starts soonest."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import optax

from jaxseg import pretrained
from jaxseg.cli import assemble, feeding, programs, sources
from jaxseg.cli.ahead import Ahead
from jaxseg.cli.assemble import Network
from jaxseg.cli.folder import Facts, RunFolder
from jaxseg.cli.programs import Programs
from jaxseg.cli.step import train_step
from jaxseg.compiler import in_background, uncollected
from jaxseg.data.check import check_sample
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe
from jaxseg.train.parallel import Parallel
from jaxseg.train.parallel_step import ParallelStep
from jaxseg.train.state import TrainState, create_state


@dataclass(frozen=True)
class Parts:
    """What a recipe's names and numbers stand for, before anything is trained or written."""

    recipe: Recipe
    facts: Facts
    train_source: Any
    validation_source: Any
    network: Network
    parallel: Parallel
    step: ParallelStep
    state: TrainState
    learning_rate: optax.Schedule


def make(
    recipe: Recipe,
    run: RunFolder,
    resume: bool,
    done: int | None,
    code: bytes,
    ahead: Ahead | None,
) -> Parts:
    """Makes the parts of a run, or says what of its recipe cannot be.

    Args:
        recipe: The recipe.
        run: The run's folder.
        resume: Whether the run goes on.
        done: How many steps it has taken before; None for a new one.
        code: The recipe's file.
        ahead: What is loading already; None where nothing can be.

    Raises:
        InputError: What does not fit.
    """
    named = dataclasses.replace(recipe.model, encoder=assemble.encoder_of(recipe.model))
    recipe = dataclasses.replace(recipe, model=named)  # the run folder says what it was
    train_source = sources.open_source(recipe.data, recipe.data.train_split)
    validation_source = sources.open_source(recipe.data, recipe.data.validation_split)
    if recipe.data.test_split is not None:
        sources.open_source(
            recipe.data, recipe.data.test_split
        )  # better missed now than at the end
    feeding.check(recipe)
    check_sample(train_source, 1)
    check_sample(validation_source, 1)
    facts = run.facts if resume else assemble.resolve(recipe, train_source)
    if facts.train_images != len(train_source):
        raise InputError(
            f"{run.path} was started with {facts.train_images} training images, now there are {len(train_source)}: "
            "a resumed run needs the same"
        )
    network = assemble.network(recipe.model, facts)
    parallel = assemble.parallel(recipe)
    steps = recipe.train.epochs * facts.steps_per_epoch
    learning_rate = assemble.learning_rate(recipe, steps)
    optimizer = assemble.optimizer(recipe, learning_rate)
    # On the device the step is part of a larger program; a run that has ended needs none.
    is_called = not recipe.data.on_device and (done or 0) < steps
    kept = programs.find(recipe, facts, parallel, code) if is_called else None
    loading = {} if kept is None or ahead is None else ahead.give(kept)
    begin = Programs(recipe, facts, network, optimizer, kept, loading)
    # What takes longest, the step, goes to XLA first; what else there is to do is done while it compiles. Labels that do
    # not fit are told before that, but where there is nothing to trace, behind the loading of the step.
    if not begin.are_kept:
        _check_labels(recipe, train_source, validation_source)
    step = parallel.compile(train_step(recipe, facts, network, optimizer))
    if is_called:
        begin.prepare(step)
    drawn = in_background(begin.init, recipe.train.seed)
    with uncollected():  # albumentations is imported
        feeding.check_augmentation(recipe, facts)
    if begin.are_kept:
        _check_labels(recipe, train_source, validation_source)
    variables = drawn.result()
    if facts.pretrained is not None and done is None:
        variables = pretrained.load(network.model, variables, facts.pretrained)
    state = create_state(variables, optimizer, ema=recipe.train.ema_decay is not None)
    return Parts(
        recipe=recipe,
        facts=facts,
        train_source=train_source,
        validation_source=validation_source,
        network=network,
        parallel=parallel,
        step=step,
        state=parallel.take(state),
        learning_rate=learning_rate,
    )


def _check_labels(recipe: Recipe, *sources: Any) -> None:
    if recipe.data.source != "shapes":  # those are drawn with their labels
        for source in sources:
            check_sample(source)
