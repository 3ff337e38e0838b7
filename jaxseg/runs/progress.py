"""Progress of a run: a bar in a terminal, lines of text elsewhere, and the rows of its log."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from jaxseg.runs.log import RunLog
from jaxseg.runs.observer import Observer


def console(*, quiet: bool = False) -> Console:
    """Returns where commands print; paths and class names appear as they are, brackets and colons included."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False, quiet=quiet)


def log_observer(log: RunLog) -> Observer:
    """Returns an observer that writes a row for each event to a run's log."""
    began = time.monotonic()

    def row(kind: str, step: int, values: Mapping[str, Any]) -> None:
        seconds = round(time.monotonic() - began, 2)
        log.write({"kind": kind, "step": step, **values, "seconds": seconds})

    def on_validation(step: int, scores: Mapping[str, Any], is_best: bool) -> None:
        row("validation", step, {**_flat(scores), "best": is_best})

    return Observer(
        on_train=lambda step, logs: row("train", step, logs),
        on_skip=lambda step, names: row("skipped", step, {"names": list(names)}),
        on_unreadable=lambda step, problems: row("unreadable", step, {"problems": list(problems)}),
        on_validation=on_validation,
        on_test=lambda step, scores: row("test", step, _flat(scores)),
    )


@contextlib.contextmanager
def progress_observer(
    shown: Console,
    *,
    start: int,
    steps: int,
    steps_per_epoch: int,
    summary: Callable[[Mapping[str, Any]], str],
) -> Iterator[Observer]:
    """Shows a run's progress while the block runs.

    Args:
        shown: Where to show it.
        start: The step that the run begins with.
        steps: The step that it ends with.
        steps_per_epoch: Optimizer steps of an epoch.
        summary: Scores in one line.
    """
    bar = Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s  loader wait"),
        TextColumn("{task.fields[wait]}  left"),
        TimeRemainingColumn(),
        console=shown,
        disable=not shown.is_terminal,
    )
    task = bar.add_task(
        "train", total=steps, completed=start, epoch=1, loss="-", speed="-", wait="-"
    )
    unreadable: set[str] = set()

    def on_step(step: int) -> None:
        bar.update(task, completed=step, epoch=-(-step // steps_per_epoch))

    def on_train(step: int, logs: Mapping[str, float]) -> None:
        loss, speed = f"{logs['loss']:.4f}", logs["images_per_second"]
        wait = f"{logs['loader_wait_seconds']:.1f} s"
        bar.update(task, loss=loss, speed=f"{speed:.1f}", wait=wait)
        if not shown.is_terminal:
            left = (steps - step) * logs["batch_size"] / max(speed, 1e-9)
            shown.print(
                f"epoch {logs['epoch']}  step {step}/{steps}  loss {loss}  {speed:.1f} images/s  "
                f"loader wait {wait}  {_clock(left)} left"
            )

    def on_skip(step: int, names: Sequence[str]) -> None:
        shown.print(f"step {step}  skipped: loss or gradient not finite  {', '.join(names)}")

    def on_unreadable(step: int, problems: Sequence[str]) -> None:
        for problem in problems:
            if problem not in unreadable:
                shown.print(f"step {step}  left out: {problem}")
        unreadable.update(problems)

    def on_validation(step: int, scores: Mapping[str, Any], is_best: bool) -> None:
        epoch = -(-step // steps_per_epoch)
        shown.print(f"epoch {epoch}  validation  {summary(scores)}{'  best' * is_best}")

    def on_test(step: int, scores: Mapping[str, Any]) -> None:
        shown.print(f"test (step {step})  {summary(scores)}")

    with bar:
        yield Observer(
            on_step=on_step,
            on_train=on_train,
            on_skip=on_skip,
            on_unreadable=on_unreadable,
            on_validation=on_validation,
            on_test=on_test,
        )


def with_speed(
    observer: Observer,
    *,
    start: int,
    steps_per_epoch: int,
    batch_size: int,
    learning_rate: Callable[[int], Any],
) -> Observer:
    """Returns the observer with epoch, learning rate and images per second among its training logs.

    Args:
        observer: Receives the completed logs.
        start: The step that the run begins with.
        steps_per_epoch: Optimizer steps of an epoch.
        batch_size: Images in a step.
        learning_rate: Step to learning rate.
    """
    since, since_step = time.monotonic(), start

    def on_train(step: int, logs: Mapping[str, float]) -> None:
        nonlocal since, since_step
        now = time.monotonic()
        speed = (step - since_step) * batch_size / max(now - since, 1e-9)
        since, since_step = now, step
        values = {
            "epoch": -(-step // steps_per_epoch),
            **logs,
            "learning_rate": float(learning_rate(step - 1 - int(logs["skipped"]))),
            "batch_size": batch_size,
            "images_per_second": round(speed, 2),
            "loader_wait_seconds": round(logs["loader_wait_seconds"], 3),
        }
        observer.on_train(step, values)

    def on_validation(step: int, scores: Mapping[str, Any], is_best: bool) -> None:
        nonlocal since
        observer.on_validation(step, scores, is_best)
        since = time.monotonic()  # validation is not training time

    return Observer(
        on_step=observer.on_step,
        on_train=on_train,
        on_skip=observer.on_skip,
        on_unreadable=observer.on_unreadable,
        on_validation=on_validation,
        on_test=observer.on_test,
    )


def _flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores without tables: numbers, text and lists of them."""
    return {
        name: value
        for name, value in scores.items()
        if not isinstance(value, Mapping)
        and not (isinstance(value, list) and value and isinstance(value[0], list))
    }


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
