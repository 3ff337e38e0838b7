"""`jaxseg report RUN`: writes a run's report.html again, from its log and its best checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import compiler, data, metrics
from jaxseg import recipe as recipes
from jaxseg.cli import arguments, assemble, sources
from jaxseg.cli.assemble import Network
from jaxseg.cli.folder import RunFolder
from jaxseg.inference.predict import make_predict
from jaxseg.report.gallery import Example, select
from jaxseg.report.report import write_report
from jaxseg.train.log import read_rows
from jaxseg.train.processes import on_first
from jaxseg.typing import Variables

_SHOWN = 4
_LOOKED_AT = 256  # validation images that the best and the worst are chosen from


def main(argv: Sequence[str]) -> int:
    """Writes the report of a run."""
    parser = arguments.parser("report", "Write a run's report.html again.")
    parser.add_argument("run", help="a run folder")
    print(write(RunFolder(parser.parse_args(argv).run)))
    return 0


def write(run: RunFolder) -> Path:
    """Writes `report.html` into the run folder: curves, classes, confusions, best and worst images.

    All processes read the checkpoint, the first one writes.
    """
    network = assemble.network(run.recipe.model, run.facts)
    variables, scores = run.best.restore(network.shapes())
    return Path(on_first(lambda: str(_write(run, network, variables, scores))))


def _write(
    run: RunFolder, network: Network, variables: Variables, scores: Mapping[str, Any]
) -> Path:
    recipe, facts = run.recipe, run.facts
    source = sources.open_source(recipe.data, recipe.data.validation_split)
    step = max(1, len(source) // _LOOKED_AT)
    looked_at = data.sources.Subset(source, range(0, len(source), step)[:_LOOKED_AT])
    predict = compiler.jit(make_predict(network.model, preprocess=network.preprocess))
    best, worst = select(
        _examples(looked_at, recipe, facts.ignore_index, predict, variables), count=_SHOWN
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    values = recipes.to_dict(recipe)
    return write_report(
        run.path / "report.html",
        title=f"{assemble.title(recipe.model)} on {recipe.data.name or recipe.data.source}",
        history=read_rows(run.path),
        counts=np.asarray(scores["counts"], np.int64),
        classes=facts.classes,
        palette=np.asarray(facts.palette, np.uint8),
        best=best,
        worst=worst,
        facts={
            "parameters": parameters,
            "best step": run.best.step,
            "device": ", ".join(sorted(set(facts.environment["devices"]))),
            "Recipe": values,
            "Environment": facts.environment,
        },
        ignore_index=facts.ignore_index,
    )


def _examples(
    source: Any, recipe: recipes.Recipe, ignore_index: int, predict: Any, variables: Any
) -> Iterator[Example]:
    with data.eval_batches(
        source,
        batch_size=recipe.train.eval_batch_size or recipe.train.batch_size,
        ignore_index=ignore_index,
    ) as batches:
        for batch in batches:
            predictions = np.asarray(predict(variables, batch["image"]))
            for index, (name, (height, width)) in enumerate(
                zip(batch["names"], batch["sizes"], strict=True)
            ):
                image = batch["image"][index, :height, :width]
                truth = batch["label"][index, :height, :width]
                prediction = predictions[index, :height, :width]
                counts = _counts(truth, prediction, source.num_classes, ignore_index)
                yield Example(name, image, truth, prediction, float(metrics.mean_iou(counts)))


def _counts(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int
) -> np.ndarray:
    """The confusion counts of one image, int64 `[K, K]`, on the host."""
    size = max(num_classes, 2)
    kept = truth != ignore_index
    pairs = truth[kept].astype(np.int64) * size + prediction[kept]
    return np.bincount(pairs, minlength=size * size).reshape(size, size)
