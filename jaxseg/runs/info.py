"""The facts that a recipe leaves to its data set and its weights, resolved once and stored as `run.json`."""

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxseg import data, pretrained
from jaxseg.errors import InputError
from jaxseg.plain_values import from_plain
from jaxseg.recipe import ModelRecipe, Recipe
from jaxseg.tasks import Task, find_task

FORMAT = 2
"""The version of run folders; 1 was that of jaxseg 0.1, which wrote no number."""
_PACKAGES = ("jaxseg", "jax", "jaxlib", "flax", "optax", "numpy", "grain", "albumentations")


@dataclass(frozen=True)
class RunInfo:
    """A model's inputs and outputs, and where and when its run started.

    Attributes:
        task: The fields of the task.
        channels: Channels of the images.
        mean: Mean of each channel in 0..1, which the model's inputs are normalised with.
        std: Standard deviation of each channel in 0..1.
        image_size: Height and width of the first training image in pixels.
        targets: Shape without height and width, and dtype of each target, such as `{"label": ((), "uint8")}`.
        train_images: Number of training images.
        steps_per_epoch: Optimizer steps of an epoch.
        pretrained: The weights the run started from, pinned to their revision.
        environment: Versions, devices, command and git state.
        format: The version of the run folder.
    """

    task: dict[str, Any]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    targets: dict[str, tuple[tuple[int, ...], str]]
    train_images: int
    steps_per_epoch: int
    pretrained: str | None
    environment: dict[str, Any]
    format: int = FORMAT

    def without_environment(self) -> dict[str, Any]:
        """Returns what determines model and data, without where and when the run started."""
        return json.loads(json.dumps(asdict(self) | {"environment": None}))


def resolve(recipe: Recipe, source: Any) -> RunInfo:
    """Returns the facts for a recipe and its training data.

    Raises:
        InputError: The source lacks what the task needs, or the pretrained weights are unknown.
    """
    record = source[0]
    image = record["image"]
    weights = recipe.model.pretrained
    weights = None if weights is None else pretrained.pin(weights)
    mean, std = _normalization(recipe.model, weights, image.shape[-1])
    task: Any = find_task(recipe.task).from_source(source)
    missing = [name for name in task.targets if name not in record]
    if missing:
        raise InputError(
            f"the source of {recipe.data.source!r} yields {', '.join(sorted(record))}, but the task {recipe.task!r} needs "
            f"{', '.join(missing)}"
        )
    return RunInfo(
        task=json.loads(json.dumps(asdict(task))),
        channels=image.shape[-1],
        mean=mean,
        std=std,
        image_size=image.shape[:2],
        targets={
            name: (tuple(record[name].shape[2:]), record[name].dtype.name) for name in task.targets
        },
        train_images=len(source),
        steps_per_epoch=max(1, len(source) // recipe.train.batch_size),
        pretrained=weights,
        environment=environment(),
    )


def task_of(recipe: Recipe, info: RunInfo) -> Task:
    """Returns the task of a run.

    Raises:
        InputError: The stored fields do not fit the task's class, which has changed since.
    """
    task = find_task(recipe.task)
    return from_plain(task, info.task, f"the task {recipe.task!r}")


def read_info(path: Path) -> RunInfo:
    """Reads `run.json`.

    Raises:
        InputError: It is missing, damaged, or of another version of jaxseg.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent} is not an intact run folder: run.json: {error}") from error
    values = values if isinstance(values, dict) else {}
    if "task" not in values and "palette" in values:
        version = values.get("environment", {}).get("versions", {}).get("jaxseg", "0.1.0")
        raise InputError(
            f"{path.parent} was written by jaxseg {version}, whose run folders this version cannot read: use it with "
            f"that version, or train again: jaxseg train RECIPE --run DIR (recipes have new fields: see CHANGELOG.md)"
        )
    known = {field.name for field in fields(RunInfo)}
    missing = known - values.keys()
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}")
    if values["format"] != FORMAT:
        raise InputError(
            f"{path.parent} has the format {values['format']}, this version of jaxseg reads {FORMAT}: use the version that "
            "wrote it"
        )
    return from_plain(RunInfo, {name: values[name] for name in known}, str(path))


def environment() -> dict[str, Any]:
    """Returns versions, devices, command and git state, so that a run can be repeated."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": sys.version.split()[0],
        "versions": versions,
        "devices": [device.device_kind for device in jax.devices()],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": _git_state(),
    }


def _normalization(
    recipe: ModelRecipe, weights: str | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = data.IMAGENET_MEAN, data.IMAGENET_STD
    if weights is not None:
        mean, std = pretrained.normalization(weights)
    if channels != len(mean):  # statistics of RGB say nothing about other sensors
        mean, std = (0.5,) * channels, (0.25,) * channels
    return tuple(recipe.mean or mean), tuple(recipe.std or std)


def _git_state() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
