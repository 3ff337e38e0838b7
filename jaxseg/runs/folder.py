"""A run folder: recipe, run info, checkpoints and log of one run."""

import contextlib
import fcntl
import json
import logging
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from jaxseg import recipe as recipes
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe
from jaxseg.runs.checkpoint import Checkpoint
from jaxseg.runs.info import RunInfo, environment, read_info

_UNFINISHED = {"lock", "run.json", "recipe.json.new"}  # left by a kill while a folder is created
_log = logging.getLogger(__name__)


class RunFolder:
    """The files of one run.

    Args:
        path: The folder; `create` makes it.

    Attributes:
        last: Checkpoints of the whole training state, to resume from.
        best: The checkpoint of the variables with the best headline score.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.last = Checkpoint(self.path / "checkpoints" / "last", keep=2)
        self.best = Checkpoint(self.path / "checkpoints" / "best")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against other runs while the block runs, and makes it where it is missing.

        The operating system releases the lock when a process ends, however it ends: a lock file that a kill left behind
        blocks nothing.

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
            with contextlib.suppress(OSError):  # a full disk; the name is only for people
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}\n".encode())
            yield

    def create(self, recipe: Recipe, info: RunInfo) -> None:
        """Writes recipe and run info into an empty folder; call it under the lock.

        Raises:
            InputError: The folder is not empty, or cannot be written.
        """
        self.check_new()
        try:
            (self.path / "run.json").write_text(json.dumps(asdict(info), indent=2) + "\n")
            recipes.save(recipe, self.path / "recipe.json")  # last: it marks the folder as intact
        except OSError as error:
            raise InputError(f"cannot write the run folder {self.path}: {error}") from error

    def check_new(self) -> None:
        """Raises an `InputError` if the folder holds anything but what a kill during `create` leaves."""
        held = [file.name for file in self.path.iterdir()] if self.path.is_dir() else []
        if (self.path.exists() and not self.path.is_dir()) or set(held) - _UNFINISHED:
            raise InputError(f"{self.path} exists already: name another --run, or --resume it")

    def record_start(self, step: int) -> list[str]:
        """Appends versions, devices, command and git state to `starts.jsonl`.

        Returns:
            The differences from the run's first start, which may change results.

        Raises:
            InputError: It cannot be written.
        """
        first, now = self.info.environment, environment()
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
        """The recipe that the run was started with.

        Raises:
            InputError: The folder holds none, or an earlier version of jaxseg wrote it.
        """
        path = self.path / "recipe.json"
        if not path.is_file():
            raise InputError(
                f"{self.path} is not a run folder: it holds no recipe.json (a run that ended before its first step leaves "
                "none: start it again with --run)"
            )
        read_info(self.path / "run.json")  # it knows earlier versions, whose recipes cannot be read
        return recipes.load(path)

    @property
    def info(self) -> RunInfo:
        """The facts resolved when the run started."""
        return read_info(self.path / "run.json")


def forbidden_changes(stored: Recipe, recipe: Recipe) -> list[str]:
    """Returns the differences of two recipes that would change results; where data lie and who loads them may differ."""
    free = ("data.root:", "data.workers:")
    lines = recipes.differences(stored, recipe)
    return [line for line in lines if not line.startswith(free)]
