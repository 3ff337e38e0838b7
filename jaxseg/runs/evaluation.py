"""Evaluates a run's checkpoints on a split of its data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import optax

from jaxseg import data
from jaxseg.parallel import Parallel
from jaxseg.recipe import EvalRecipe
from jaxseg.runs.build import Run, build
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.sources import open_source
from jaxseg.runs.stop import StopRequest, until_stopped
from jaxseg.tasks import Task
from jaxseg.train.eval_step import make_eval_step
from jaxseg.train.state import TrainState, create_state
from jaxseg.typing import Variables


def evaluate(
    folder: str | Path,
    split: str | None = None,
    *,
    checkpoint: str = "best",
    root: str | None = None,
    options: EvalRecipe | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run on a split of its data set.

    Args:
        folder: The run folder.
        split: The split; the validation split by default.
        checkpoint: `"best"` or `"last"`.
        root: The data set's folder, if it has moved.
        options: Windows, flips and scales; the run's own by default.

    Returns:
        The task's scores as plain values; for semantic segmentation `mean_iou`, `iou` of each class, `counts` and others.

    Raises:
        InputError: The folder holds no intact run, the data cannot be read, or options are out of range.
    """
    run_folder = RunFolder(folder)
    recipe = run_folder.recipe
    if root is not None:
        recipe = replace(recipe, data=replace(recipe.data, root=root))
    if options is not None:
        recipe = replace(recipe, eval=options)
    source = open_source(recipe.data, split or recipe.data.validation_split)
    run = build(recipe, run_folder.info)
    variables = load_variables(run_folder, run, checkpoint)
    state = run.parallel.replicate(create_state(variables, optax.identity()))
    return make_evaluate(run, source)(state)


def load_variables(folder: RunFolder, run: Run, checkpoint: str = "best") -> Variables:
    """Returns the variables of a run's best or last checkpoint; the averaged ones where the run has an average."""
    if checkpoint == "best":
        return folder.best.restore(run.variables_like)[0]
    return folder.last.restore(run.state_like())[0].evaluated.variables


def make_evaluate(
    run: Run, source: Any, stop: StopRequest | None = None
) -> Callable[[TrainState], dict[str, Any]]:
    """Returns a function from a replicated state to the scores of a whole data set.

    Args:
        run: The run.
        source: The data.
        stop: Asked before each batch; a request raises `Stopped`.
    """
    compiled = run.parallel.compile(
        make_eval_step(run.eval_model, run.task, run.loss_fn, preprocess=run.preprocess),
        donate=(2,),
    )

    def evaluate_state(state: TrainState) -> dict[str, Any]:
        batches = data.eval_batches(
            source,
            batch_size=run.recipe.eval.batch_size or run.recipe.train.batch_size,
            targets=run.task.targets,
            shard=(jax.process_index(), jax.process_count()),
        )
        with batches:
            return evaluate_batches(
                state.evaluated, compiled, batches, task=run.task, parallel=run.parallel, stop=stop
            )

    return evaluate_state


def evaluate_batches(
    state: TrainState,
    step: Callable[..., Any],
    batches: Iterable[Mapping[str, Any]],
    *,
    task: Task,
    parallel: Parallel,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Returns the scores of a data set.

    Args:
        state: The state, replicated.
        step: An evaluation step that was compiled by `parallel`.
        batches: Each image once, this process's part of each batch; targets of padding hold their fill value.
        task: The task.
        parallel: The devices.
        stop: Asked before each batch.

    Raises:
        Stopped: A stop was requested.
    """
    totals, records = parallel.replicate(task.zero()), []
    names = ("image", *task.targets)
    for batch in until_stopped(batches, stop or StopRequest()):
        arrays = parallel.shard({name: batch[name] for name in names})
        totals, collected = step(state, arrays, totals)
        if jax.tree.leaves(collected):
            records.append((batch, jax.device_get(collected)))
    return task.scores(jax.device_get(totals), records)
