"""`jaxseg evaluate RUN [--split test]`: the numbers of a run again, from its checkpoint."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from rich.table import Table

from jaxseg import data
from jaxseg.cli import arguments, assemble, sources
from jaxseg.cli.assemble import Network
from jaxseg.cli.folder import Facts, RunFolder
from jaxseg.cli.progress import console, summary
from jaxseg.recipe import Recipe
from jaxseg.train.log import finite
from jaxseg.train.loop import evaluate
from jaxseg.train.parallel import Parallel
from jaxseg.train.state import TrainState, create_state
from jaxseg.train.step import make_eval_step
from jaxseg.train.stop import StopRequest
from jaxseg.typing import Variables


def main(argv: Sequence[str]) -> int:
    """Evaluates the best (or last) checkpoint of a run on one split."""
    parser = arguments.parser("evaluate", "The numbers of a run again, from its checkpoint.")
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--split", help="a split of its data set (default: the validation split)")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--data.root", dest="root", help="where the data set is, if it has moved")
    options = parser.parse_args(argv)
    run = RunFolder(options.run)
    split = options.split or run.recipe.data.validation_split
    scores = evaluate_run(run, split, checkpoint=options.checkpoint, root=options.root)
    shown = console()
    shown.print(f"{split}  {summary(scores)}")
    shown.print(per_class(run.facts.classes, scores["iou"]))
    values = finite({"split": split, "checkpoint": options.checkpoint, **scores})
    (run.path / f"evaluation-{_safe(split)}.json").write_text(json.dumps(values, indent=2) + "\n")
    return 0


def evaluate_run(
    run: RunFolder, split: str, *, checkpoint: str = "best", root: str | None = None
) -> dict[str, Any]:
    """The scores of one split under a run's checkpoint."""
    recipe, facts = run.recipe, run.facts
    if root is not None:
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root=root))
    source = sources.open_source(recipe.data, split)
    network = assemble.network(recipe.model, facts)
    parallel = assemble.parallel(recipe)
    variables = restore_variables(run, network, checkpoint)
    state = parallel.replicate(create_state(variables, optax.identity()))
    return evaluator(recipe, facts, network, parallel, source)(state)


def restore_variables(run: RunFolder, network: Network, checkpoint: str = "best") -> Variables:
    """The variables of a run's best or last checkpoint."""
    if checkpoint == "best":
        return run.best.restore(network.shapes())[0]
    optimizer = assemble.optimizer(run.recipe, assemble.learning_rate(run.recipe, 10**6))
    ema = run.recipe.train.ema_decay is not None
    template = jax.eval_shape(
        lambda variables: create_state(variables, optimizer, ema=ema), network.shapes()
    )
    return run.last.restore(template)[0].evaluated.variables


def evaluator(
    recipe: Recipe,
    facts: Facts,
    network: Network,
    parallel: Parallel,
    source: Any,
    stop: StopRequest | None = None,
) -> Callable[[TrainState], dict[str, Any]]:
    """Compiles an evaluation step; the function returned scores a state on the source, or raises `Stopped`."""
    compiled = parallel.compile(
        make_eval_step(
            network.model,
            assemble.loss(recipe, facts),
            preprocess=network.preprocess,
            ignore_index=facts.ignore_index,
        ),
        donate=(2,),
    )

    def step(state: TrainState, batch: Any, totals: Any) -> Any:
        arrays = {"image": batch["image"], "label": batch["label"]}
        return compiled(state, parallel.shard(arrays), totals)

    def score(state: TrainState) -> dict[str, Any]:
        batches = data.eval_batches(
            source,
            batch_size=recipe.train.eval_batch_size or recipe.train.batch_size,
            ignore_index=facts.ignore_index,
            shard=(jax.process_index(), jax.process_count()),
        )
        with batches:
            return evaluate(
                state.evaluated,
                step,
                batches,
                num_classes=facts.num_classes,
                parallel=parallel,
                stop=stop,
            )

    return score


def per_class(classes: Sequence[str], iou: Sequence[float]) -> Table:
    """A table of each class's IoU."""
    table = Table("class", "IoU")
    for name, value in zip(classes, iou, strict=True):
        table.add_row(name, "absent" if value != value else f"{value:.4f}")
    return table


def _safe(split: str) -> str:
    """A split's name as a part of a file's name (TFDS has splits such as train[90%:])."""
    return "".join(letter if letter.isalnum() else "-" for letter in split)
