"""The training loop, for any task, step, loader and log."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxseg.errors import InputError
from jaxseg.parallel.processes import all_gather_objects, is_single_process
from jaxseg.runs.checkpoint import Checkpoint
from jaxseg.runs.loader_wait import LoaderWait
from jaxseg.runs.observer import Observer
from jaxseg.runs.stop import Stopped, StopRequest, until_stopped
from jaxseg.tasks.task import Headline
from jaxseg.train.state import TrainState


@dataclass(frozen=True)
class Progress:
    """The progress of a run, saved with each checkpoint.

    Attributes:
        best_score: The best headline score so far; None before the first that is a number.
        best_step: Its step; 0 before the first validation.
        epochs_without_improvement: Epochs since then.
        validated_step: The step of the last validation.
    """

    best_score: float | None = None
    best_step: int = 0
    epochs_without_improvement: int = 0
    validated_step: int = 0

    def after(self, step: int, score: float, headline: Headline) -> "Progress":
        """Returns the progress after an epoch has been validated; a score of nan is never the best.

        >>> iou = Headline("mean_iou", "mIoU")
        >>> Progress().after(10, 0.5, iou).after(20, 0.4, iou)
        Progress(best_score=0.5, best_step=10, epochs_without_improvement=1, validated_step=20)
        """
        best = self.best_score
        if (
            not self.best_step
            or (best is None and score == score)
            or (best is not None and headline.is_better(score, best))
        ):
            return Progress(score if score == score else None, step, 0, step)
        stale = self.epochs_without_improvement + 1
        return dataclasses.replace(self, epochs_without_improvement=stale, validated_step=step)


@dataclass(frozen=True)
class Schedule:
    """The duration of a run.

    Attributes:
        steps_per_epoch: Optimizer steps of an epoch.
        epochs: Number of epochs.
        log_every: Steps between two logs.
        patience: Stop after this number of epochs without a better score; None never stops early.
        max_skipped: Stop after this number of skipped updates in a row.
    """

    steps_per_epoch: int
    epochs: int
    log_every: int = 10
    patience: int | None = None
    max_skipped: int = 10


def fit(
    state: TrainState,
    step: Callable[[TrainState, Mapping[str, Any], jax.Array], tuple[TrainState, dict[str, Any]]],
    batches: Iterator[Mapping[str, Any]],
    *,
    key: jax.Array,
    schedule: Schedule,
    validate: Callable[[TrainState], Mapping[str, Any]],
    last: Checkpoint,
    best: Checkpoint,
    headline: Headline,
    observer: Observer,
    stop: StopRequest,
    progress: Progress | None = None,
) -> tuple[TrainState, Progress]:
    """Trains from `state.step` to the schedule's end, or until a stop is requested or patience ends.

    Args:
        state: Where to start; it is donated.
        step: A train step that takes host batches, wrapped in `skip_nonfinite` and compiled; or one that takes several
            steps at once, as many as the batch's `"steps"`, and returns the logs of the last step, except
            `"skipped_in_row"` `[steps]`. No chunk may extend over a step that is logged.
        batches: Batches from `state.step` on, without end; this process's part of each. With `"steps"`, `"names"` holds a
            list for each step.
        key: Key of the whole run; the step folds its own number in.
        schedule: The duration, and how often to log.
        validate: State to scores, the headline among them; called after each epoch.
        last: Receives the whole state after each epoch and when the run is stopped.
        best: Receives the variables of the epoch with the best headline score.
        headline: The score that selects the best epoch.
        observer: Called with steps and scores.
        stop: Asked after each step.
        progress: What an earlier part of this run had reached.

    Returns:
        The state, and how far the run has come.

    Raises:
        InputError: Too many updates in a row were skipped, an image cannot be read, or a process of the loader has died.
            `last` holds the state before the failure.
    """
    progress = progress or Progress()
    at, end = int(state.step), schedule.epochs * schedule.steps_per_epoch
    skips = _Skips(observer, schedule.max_skipped)
    batches, wait = until_stopped(batches, stop), LoaderWait()
    while True:
        if at % schedule.steps_per_epoch == 0 and at > progress.validated_step:
            try:
                with _saving_first(last, at, state, progress, skips):
                    scores = validate(state)
            except Stopped:
                break  # a resumed run validates first
            progress = progress.after(at, scores[headline.name], headline)
            if progress.best_step == at:
                best.save(at, state.evaluated.variables, scores)
            observer.on_validation(at, scores, progress.best_step == at)
            last.save(at, state, dataclasses.asdict(progress))
        if at >= end or _exhausted(progress, schedule):
            break
        try:
            with _saving_first(last, at, state, progress, skips):
                batch = wait.next(batches)
        except Stopped:
            break
        state, logs = step(state, batch, key)
        at += batch.get("steps", 1)
        observer.on_step(at)
        if batch.get("unreadable"):
            observer.on_unreadable(at, batch["unreadable"])
        skips.add(at, batch.get("names", ()), logs.pop("skipped_in_row"))
        wait.step_dispatched(logs)
        logged = at % schedule.log_every == 0 or at % schedule.steps_per_epoch == 0
        if logged or skips.are_due:
            with _saving_first(last, at, state, progress, skips):
                skips.report()
        if logged:
            values = {name: float(value) for name, value in jax.device_get(logs).items()}
            observer.on_train(at, {**values, "loader_wait_seconds": wait.pop_seconds()})
    if stop.answered:
        skips.report()
        last.save(at, state, dataclasses.asdict(progress))
    return state, progress


@contextlib.contextmanager
def _saving_first(
    last: Checkpoint, step: int, state: TrainState, progress: Progress, skips: "_Skips"
) -> Iterator[None]:
    """Saves the state where data fail: an image that cannot be read, a process of the loader that was killed."""
    try:
        yield
    except (InputError, RuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not is_single_process():
            raise  # another process has died, and without it nothing can be saved
        if not step:
            raise InputError(str(error)) from error
        with contextlib.suppress(InputError):
            skips.report()  # a resumed run will not repeat these steps
        last.save(step, state, dataclasses.asdict(progress))
        raise InputError(
            f"{error}\nThe state of step {step} is saved; the run can be resumed"
        ) from error


class _Skips:
    """Skipped updates. They are read several steps later, so that no step waits for the one before it."""

    def __init__(self, observer: Observer, limit: int):
        self._observer, self._limit = observer, limit
        self._pending: list[tuple[int, Sequence[str], Any]] = []
        self._row: list[tuple[int, Sequence[str]]] = []

    @property
    def are_due(self) -> bool:
        """Whether the number of steps with an unknown result has reached the limit."""
        return len(self._pending) >= self._limit

    def add(self, step: int, names: Sequence[str], in_row: Any) -> None:
        """Adds a dispatched step, the records of its batch, and the number of updates skipped in a row up to it."""
        self._pending.append((step, names, in_row))

    def report(self) -> None:
        """Waits for all steps and reports skipped ones; raises an `InputError` after too many in a row."""
        known = jax.device_get([in_row for _, _, in_row in self._pending])
        pending, self._pending = self._pending, []
        each = [
            single
            for (step, names, _), in_row in zip(pending, known, strict=True)
            for single in _each_step(step, names, in_row)
        ]
        for step, names, in_row in each:
            if in_row:
                names = [name for part in all_gather_objects(list(names)) for name in part]
            self._row = [*self._row, (step, names)] if in_row else []
            if in_row:
                self._observer.on_skip(step, names)
            if in_row >= self._limit:
                batches = "\n  ".join(f"step {k}: {', '.join(n)}" for k, n in self._row[-3:])
                raise InputError(
                    f"the loss or the gradient was not finite {in_row} times in a row, up to step {step}: lower the "
                    "learning rate, or look at these images and masks:\n  " + batches
                )


def _each_step(
    step: int, names: Sequence[Any], in_row: Any
) -> list[tuple[int, Sequence[str], Any]]:
    """Returns step, names and count of one step, or of each of several that ended with it."""
    if np.ndim(in_row) == 0:
        return [(step, names, in_row)]
    first = step - len(in_row) + 1
    return [(first + i, names[i], count) for i, count in enumerate(in_row)]


def _exhausted(progress: Progress, schedule: Schedule) -> bool:
    patience = schedule.patience
    return patience is not None and progress.epochs_without_improvement >= patience
