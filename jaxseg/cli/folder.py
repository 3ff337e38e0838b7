"""A run folder: its recipe, the facts that evaluation and prediction need, its checkpoints and its log."""

import contextlib
import fcntl
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxseg import recipe as recipes
from jaxseg.cli.resume import recipe_of
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe
from jaxseg.train.checkpoint import Checkpoint

_PACKAGES = ("jaxseg", "jax", "jaxlib", "flax", "optax", "numpy", "grain", "albumentations")
_UNFINISHED = {"lock", "run.json", "recipe.json.new"}  # what a kill while creating a folder leaves
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What a run's model is and sees, resolved from its recipe and its data set; kept as `run.json`."""

    num_classes: int
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    train_images: int
    steps_per_epoch: int
    pretrained: str | None
    environment: dict[str, Any]

    def without_environment(self) -> dict[str, Any]:
        """What they say of model and data, and not of where and when the run was started."""
        return asdict(self) | {"environment": None}


class RunFolder:
    """The files of one run, which `create` makes."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.last = Checkpoint(self.path / "checkpoints" / "last", keep=2)
        self.best = Checkpoint(self.path / "checkpoints" / "best")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other run out of the folder while the block runs; it is made where there is none.

        The system gives the lock back when a process ends, however it ends: a lock file that a kill left behind holds
        nobody up.

        Raises:
            InputError: Another run writes into the folder, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("ab+", buffering=0)
        except OSError as error:
            raise InputError(f"cannot write the run folder {self.path}: {error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().decode(errors="replace").strip() or "another process"
                raise InputError(
                    f"{self.path} is being written by {holder}: let it end, or name another --run"
                ) from None
            except OSError as error:
                _log.warning("%s cannot be locked, see to it yourself: %s", self.path, error)
            with contextlib.suppress(OSError):  # a full disk; the name is for other people's eyes
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}\n".encode())
            yield

    def create(self, recipe: Recipe, facts: Facts) -> None:
        """Writes recipe and facts into a folder that must not hold anything yet; call it under the lock.

        Raises:
            InputError: The folder holds something already, or cannot be written.
        """
        self.check_new()
        try:
            (self.path / "run.json").write_text(json.dumps(asdict(facts), indent=2) + "\n")
            recipes.save(recipe, self.path / "recipe.json")  # last: a folder with a recipe is whole
        except OSError as error:
            raise InputError(f"cannot write the run folder {self.path}: {error}") from error

    def check_new(self) -> None:
        """Raises an `InputError` where something is already, but for what a kill while creating it left."""
        held = [file.name for file in self.path.iterdir()] if self.path.is_dir() else []
        if (self.path.exists() and not self.path.is_dir()) or set(held) - _UNFINISHED:
            raise InputError(f"{self.path} exists already: name another --run, or --resume it")

    def note_start(self, step: int) -> list[str]:
        """Appends what a run starts or goes on with to `starts.jsonl`: versions, devices, command and git state.

        Returns:
            What differs from its first start, for which results may differ as well.

        Raises:
            InputError: It cannot be written.
        """
        first, now = self.facts.environment, environment()
        try:
            with (self.path / "starts.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **now}) + "\n")
        except OSError as error:
            raise InputError(f"cannot write the run folder {self.path}: {error}") from error
        then, here = (
            {"python": e["python"], "devices": ", ".join(e["devices"]), "git": e["git"]}
            | e["versions"]
            for e in (first, now)
        )
        names = sorted(then.keys() | here.keys())
        return [
            f"{name}: {then.get(name)} -> {here.get(name)}"
            for name in names
            if then.get(name) != here.get(name)
        ]

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run was started with."""
        return recipe_of(self.path)

    @property
    def facts(self) -> Facts:
        """What the run's model is and sees."""
        try:
            values = json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} is not a whole run folder: run.json: {error}") from error
        values = values if isinstance(values, dict) else {}
        missing = {field.name for field in fields(Facts)} - values.keys()
        if missing:
            raise InputError(f"{self.path / 'run.json'} lacks {', '.join(sorted(missing))}")
        values = {field.name: values[field.name] for field in fields(Facts)}
        for name in ("classes", "mean", "std", "image_size"):
            values[name] = tuple(values[name])
        values["palette"] = tuple(tuple(colour) for colour in values["palette"])
        return Facts(**values)


def environment() -> dict[str, Any]:
    """Versions, devices, command and git state, so that a run can be repeated."""
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
        "command": shlex.join(["jaxseg", *sys.argv[1:]]),
        "git": _git_state(),
    }


def _git_state() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
