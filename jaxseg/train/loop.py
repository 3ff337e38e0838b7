"""The training loop and the evaluation of a whole data set, for any step, loader and log."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxseg import metrics
from jaxseg.errors import InputError
from jaxseg.train.checkpoint import Checkpoint
from jaxseg.train.parallel import Parallel
from jaxseg.train.processes import alone, exchange
from jaxseg.train.stall import Stall
from jaxseg.train.state import TrainState
from jaxseg.train.step import EvalTotals
from jaxseg.train.stop import Stopped, StopRequest, until_stopped


class Observer(Protocol):
    """Who is told of the run as it goes: a log, a progress bar, or nobody."""

    def on_step(self, step: int) -> None:
        """A step has been started on the device."""
        ...

    def on_train(self, step: int, logs: Mapping[str, float]) -> None:
        """Every few steps: what the step returned, and `stall_seconds`, how long steps have waited for the loader since."""
        ...

    def on_skip(self, step: int, names: Sequence[str]) -> None:
        """An update was skipped, of a batch with these records."""
        ...

    def on_unreadable(self, step: int, problems: Sequence[str]) -> None:
        """A batch's records took the place of others that cannot be read."""
        ...

    def on_validation(self, step: int, scores: Mapping[str, Any], best: bool) -> None:
        """After each epoch: the scores, and whether they are the best so far."""
        ...


@dataclass(frozen=True)
class Progress:
    """What a run has reached, saved with each checkpoint."""

    best_mean_iou: float = -1.0
    best_step: int = 0
    epochs_without_improvement: int = 0
    validated_step: int = 0

    def after(self, step: int, mean_iou: float) -> "Progress":
        """The progress once an epoch has been validated; a mIoU of nan is never the best.

        >>> Progress().after(10, 0.5).after(20, 0.4)
        Progress(best_mean_iou=0.5, best_step=10, epochs_without_improvement=1, validated_step=20)
        """
        if mean_iou > self.best_mean_iou or not self.best_step:
            return Progress(mean_iou if mean_iou == mean_iou else -1.0, step, 0, step)
        stale = self.epochs_without_improvement + 1
        return dataclasses.replace(self, epochs_without_improvement=stale, validated_step=step)


@dataclass(frozen=True)
class Schedule:
    """How long a run goes on, in optimizer steps."""

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
    observer: Observer,
    stop: StopRequest,
    progress: Progress | None = None,
) -> tuple[TrainState, Progress]:
    """Trains from `state.step` to the schedule's end, or until a stop is requested or patience ends.

    Args:
        state: Where to start; it is donated.
        step: A compiled train step that takes host batches, made by `skip_nonfinite`; or one that takes `"steps"` steps
            at once, up to a line of the log at most, and gives the logs of the last, but `"skipped_in_row"` `[steps]`.
        batches: Batches from `state.step` on, without end; this process's part of each. With `"steps"`,
            `"names"` is a list for each of them.
        key: Key of the whole run; the step folds its own number in.
        schedule: How long, and how often to log.
        validate: State to scores, `mean_iou` among them; called after each epoch.
        last: Gets the whole state after each epoch and when the run is stopped.
        best: Gets the variables of the epoch with the best `mean_iou`.
        observer: Told of steps and scores.
        stop: Asked after each step.
        progress: What an earlier part of this run had reached.

    Returns:
        The state and what the run reached.

    Raises:
        InputError: Too many updates in a row were skipped, or an image cannot be read, or a loader's process has died;
            the state from before it is in `last`.
    """
    progress = progress or Progress()
    at, end = int(state.step), schedule.epochs * schedule.steps_per_epoch
    skips = _Skips(observer, schedule.max_skipped)
    batches, stall = until_stopped(batches, stop), Stall()
    while True:
        if at % schedule.steps_per_epoch == 0 and at > progress.validated_step:
            try:
                with _saving_first(last, at, state, progress, skips):
                    scores = validate(state)
            except Stopped:
                break  # a resumed run makes up for it
            progress = progress.after(at, scores["mean_iou"])
            if progress.best_step == at:
                best.save(at, state.evaluated.variables, scores)
            observer.on_validation(at, scores, progress.best_step == at)
            last.save(at, state, dataclasses.asdict(progress))
        if at >= end or _exhausted(progress, schedule):
            break
        try:
            with _saving_first(last, at, state, progress, skips):
                batch = stall.next(batches)
        except Stopped:
            break
        state, logs = step(state, batch, key)
        at += batch.get("steps", 1)
        observer.on_step(at)
        if batch.get("unreadable"):
            observer.on_unreadable(at, batch["unreadable"])
        skips.add(at, batch.get("names", ()), logs.pop("skipped_in_row"))
        stall.started(logs)
        logged = at % schedule.log_every == 0 or at % schedule.steps_per_epoch == 0
        if logged or skips.are_due:
            with _saving_first(last, at, state, progress, skips):
                skips.tell()
        if logged:
            values = {name: float(value) for name, value in jax.device_get(logs).items()}
            observer.on_train(at, {**values, "stall_seconds": stall.take()})
    if stop.answered:
        skips.tell()
        last.save(at, state, dataclasses.asdict(progress))
    return state, progress


@contextlib.contextmanager
def _saving_first(
    last: Checkpoint, step: int, state: TrainState, progress: Progress, skips: "_Skips"
) -> Iterator[None]:
    """Keeps the state where data fail: an image that cannot be read, a loader's process that was killed."""
    try:
        yield
    except (InputError, RuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not alone():
            raise  # another process has died, without which nothing can be saved
        if not step:
            raise InputError(str(error)) from error
        with contextlib.suppress(InputError):
            skips.tell()  # a resumed run will not come by them again
        last.save(step, state, dataclasses.asdict(progress))
        raise InputError(
            f"{error}\nThe state of step {step} is saved; the run can be resumed"
        ) from error


class _Skips:
    """Which updates were skipped. They are asked for a few steps later, so that no step waits for the one before it."""

    def __init__(self, observer: Observer, limit: int):
        self._observer, self._limit = observer, limit
        self._pending: list[tuple[int, Sequence[str], Any]] = []
        self._row: list[tuple[int, Sequence[str]]] = []

    @property
    def are_due(self) -> bool:
        """Whether as many steps are unknown as may be skipped at most."""
        return len(self._pending) >= self._limit

    def add(self, step: int, names: Sequence[str], in_row: Any) -> None:
        """A step that was started, the records of its batch, and how many updates in a row will have been skipped."""
        self._pending.append((step, names, in_row))

    def tell(self) -> None:
        """Waits for all steps; raises an `InputError` that names the batches where too many were skipped in a row."""
        known = jax.device_get([in_row for _, _, in_row in self._pending])
        pending, self._pending = self._pending, []
        each = [
            one
            for (step, names, _), in_row in zip(pending, known, strict=True)
            for one in _single(step, names, in_row)
        ]
        for step, names, in_row in each:
            if in_row:
                names = [name for part in exchange(list(names)) for name in part]
            self._row = [*self._row, (step, names)] if in_row else []
            if in_row:
                self._observer.on_skip(step, names)
            if in_row >= self._limit:
                batches = "\n  ".join(f"step {k}: {', '.join(n)}" for k, n in self._row[-3:])
                raise InputError(
                    f"the loss or the gradient was not finite {in_row} times in a row, up to step {step}: lower the "
                    "learning rate, or look at these images and masks:\n  " + batches
                )


def _single(step: int, names: Sequence[Any], in_row: Any) -> list[tuple[int, Sequence[str], Any]]:
    """What is known of one step, or of each of several that ended with it."""
    if np.ndim(in_row) == 0:
        return [(step, names, in_row)]
    first = step - len(in_row) + 1
    return [(first + i, names[i], count) for i, count in enumerate(in_row)]


def evaluate(
    state: TrainState,
    step: Callable[[TrainState, Mapping[str, Any], EvalTotals], EvalTotals],
    batches: Iterable[Mapping[str, Any]],
    *,
    num_classes: int,
    parallel: Parallel,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """The scores of a whole data set, from one confusion matrix.

    Args:
        state: The state, replicated.
        step: A compiled evaluation step that takes host batches.
        batches: Each image once; padding is labelled `ignore_index`. This process's part of each.
        num_classes: Number of classes of the logits (1 for one sigmoid).
        parallel: The devices that the step was compiled for.
        stop: Asked before each batch.

    Returns:
        `loss`, `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `mean_dice`, per class `iou` and the `counts`
        (rows truth, columns prediction) as lists; plain values all of them.

    Raises:
        Stopped: A stop was requested.
    """
    totals = parallel.replicate(EvalTotals.zero(num_classes))
    for batch in until_stopped(batches, stop or StopRequest()):
        totals = step(state, batch, totals)
    counts = totals.counts.to_numpy()
    return {
        "loss": float(totals.loss),
        "pixel_accuracy": float(metrics.pixel_accuracy(counts)),
        "mean_accuracy": float(metrics.mean_accuracy(counts)),
        "mean_iou": float(metrics.mean_iou(counts)),
        "mean_dice": float(metrics.mean_dice(counts)),
        "iou": np.asarray(metrics.iou(counts)).tolist(),
        "counts": counts.tolist(),
    }


def _exhausted(progress: Progress, schedule: Schedule) -> bool:
    patience = schedule.patience
    return patience is not None and progress.epochs_without_improvement >= patience
