"""Writes a run's report from its log and its best checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxseg import compiler, data
from jaxseg import recipe as recipes
from jaxseg.inference.predict import make_predict
from jaxseg.parallel.processes import on_first_process
from jaxseg.report.gallery import select
from jaxseg.report.report import write_report
from jaxseg.runs.build import Run, build
from jaxseg.runs.folder import RunFolder
from jaxseg.runs.log import read_rows
from jaxseg.runs.sources import open_source
from jaxseg.tasks.task import Example
from jaxseg.typing import Variables

_SHOWN = 4
_CANDIDATES = 256  # validation images among which the best and the worst are selected


def report(folder: str | Path) -> Path:
    """Writes `report.html` into a run folder: key figures, curves, the task's sections, best and worst images.

    Every process reads the checkpoint, the first one writes.

    Returns:
        The path of the report.

    Raises:
        InputError: The folder holds no intact run, or its data cannot be read.
    """
    run_folder = RunFolder(folder)
    run = build(run_folder.recipe, run_folder.info)
    variables, scores = run_folder.best.restore(run.variables_like)
    return Path(on_first_process(lambda: str(_write(run_folder, run, variables, scores))))


def _write(folder: RunFolder, run: Run, variables: Variables, scores: dict[str, Any]) -> Path:
    recipe, task = run.recipe, run.task
    source = open_source(recipe.data, recipe.data.validation_split)
    step = max(1, len(source) // _CANDIDATES)
    candidates = data.Subset(source, range(0, len(source), step)[:_CANDIDATES])
    best, worst = select(
        _examples(run, candidates, variables),
        count=_SHOWN,
        higher_is_better=task.headline.higher_is_better,
    )
    parts = task.report(scores)
    environment = run.info.environment
    return write_report(
        folder.path / "report.html",
        title=f"{run.title} on {data_name(recipe)}",
        history=read_rows(folder.path),
        cards=parts.cards,
        score_curves=parts.curves,
        sections=parts.sections,
        best=best,
        worst=worst,
        draw=task.draw,
        score_title=task.headline.title,
        legend=parts.legend,
        facts={
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
            "best step": folder.best.step,
            "device": ", ".join(sorted(set(environment["devices"]))),
            "Recipe": recipes.to_dict(recipe),
            "Environment": environment,
        },
    )


def data_name(recipe: recipes.Recipe) -> str:
    """Returns the data set's name for a title."""
    return str(recipe.data.options.get("name", recipe.data.source))


def _examples(run: Run, source: Any, variables: Variables) -> Iterator[Example]:
    task = run.task
    predict = compiler.jit(
        make_predict(run.eval_model, task.predictions, preprocess=run.preprocess)
    )
    batch_size = run.recipe.eval.batch_size or run.recipe.train.batch_size
    with data.eval_batches(source, batch_size=batch_size, targets=run.task.targets) as batches:
        for batch in batches:
            predictions = jax.device_get(predict(variables, batch["image"]))
            for index, (name, size) in enumerate(zip(batch["names"], batch["sizes"], strict=True)):
                crop = _Crop(index, size, batch["image"].shape[1:3])
                sample = {key: crop(batch[key]) for key in ("image", *task.targets)}
                truth = task.truth(sample)
                prediction = jax.tree.map(crop, predictions)
                score = task.image_score(truth, prediction)
                yield Example(name, sample["image"], truth, prediction, score)


class _Crop:
    """Takes one image's part of a padded batch; arrays of another size than the images are not padded."""

    def __init__(self, index: int, size: tuple[int, int], padded: tuple[int, ...]):
        self._index, self._size, self._padded = index, size, padded

    def __call__(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)[self._index]
        if array.shape[:2] != self._padded:
            return array
        height, width = self._size
        return array[:height, :width]
