"""What a person sees while a run goes: a bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from jaxseg.train.log import RunLog


class RunObserver:
    """Shows and writes down what the training loop tells it.

    Args:
        log: Where rows are written.
        console: Where to show them.
        start: The step that the run goes on from.
        steps: The step that the run ends at.
        steps_per_epoch: Optimizer steps in an epoch.
        batch_size: Images in a step.
        learning_rate: Step to learning rate.
    """

    def __init__(
        self,
        log: RunLog,
        console: Console,
        *,
        start: int,
        steps: int,
        steps_per_epoch: int,
        batch_size: int,
        learning_rate: Callable[[int], Any],
    ):
        self._log, self._console = log, console
        self._steps_per_epoch, self._batch_size = steps_per_epoch, batch_size
        self._steps, self._learning_rate = steps, learning_rate
        self._began = self._since = time.monotonic()
        self._since_step = start
        self._shown: set[str] = set()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(
                "loss {task.fields[loss]}  {task.fields[speed]} images/s  "
                "stall {task.fields[stall]}  left"
            ),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(
            "train", total=steps, completed=start, epoch=1, loss="-", speed="-", stall="-"
        )

    def __enter__(self) -> "RunObserver":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_step(self, step: int) -> None:
        """Moves the bar."""
        epoch = -(-step // self._steps_per_epoch)
        self._bar.update(self._task, completed=step, epoch=epoch)

    def on_train(self, step: int, logs: Mapping[str, float]) -> None:
        """Writes a row with the loss, the learning rate, and the speed and the stall since the last one."""
        now = time.monotonic()
        speed = (step - self._since_step) * self._batch_size / max(now - self._since, 1e-9)
        self._since, self._since_step = now, step
        epoch, stall = -(-step // self._steps_per_epoch), f"{logs['stall_seconds']:.1f} s"
        row = {
            "kind": "train",
            "epoch": epoch,
            "step": step,
            **logs,
            "learning_rate": float(self._learning_rate(step - 1 - int(logs["skipped"]))),
            "images_per_second": round(speed, 2),
            "stall_seconds": round(logs["stall_seconds"], 3),
            "seconds": round(now - self._began, 2),
        }
        self._log.write(row)
        loss = f"{logs['loss']:.4f}"
        self._bar.update(self._task, loss=loss, speed=f"{speed:.1f}", stall=stall)
        if not self._console.is_terminal:
            left = (self._steps - step) * self._batch_size / max(speed, 1e-9)
            self._console.print(
                f"epoch {epoch}  step {step}/{self._steps}  loss {loss}  "
                f"{speed:.1f} images/s  stall {stall}  {_clock(left)} left"
            )

    def on_skip(self, step: int, names: Sequence[str]) -> None:
        """Writes and shows that an update was skipped."""
        self._log.write({"kind": "skipped", "step": step, "names": list(names)})
        self._console.print(
            f"step {step}  skipped: loss or gradient not finite  {', '.join(names)}"
        )

    def on_unreadable(self, step: int, problems: Sequence[str]) -> None:
        """Writes every record that was passed over, and shows each once."""
        self._log.write({"kind": "unreadable", "step": step, "problems": list(problems)})
        for problem in problems:
            if problem not in self._shown:
                self._console.print(f"step {step}  passed over: {problem}")
        self._shown.update(problems)

    def on_validation(self, step: int, scores: Mapping[str, Any], best: bool) -> None:
        """Writes and shows an epoch's scores; validation time is not training time."""
        epoch = -(-step // self._steps_per_epoch)
        row = {"kind": "validation", "epoch": epoch, "step": step, **scores, "best": best}
        row["seconds"] = round(time.monotonic() - self._began, 2)
        del row["counts"]
        self._log.write(row)
        self._console.print(f"epoch {epoch}  validation  {summary(scores)}{'  best' * best}")
        self._since = time.monotonic()


class Unseen:
    """What a process that neither shows nor writes anything makes of what the training loop tells: nothing."""

    def on_step(self, step: int) -> None:
        """Nothing."""

    def on_train(self, step: int, logs: Mapping[str, float]) -> None:
        """Nothing."""

    def on_skip(self, step: int, names: Sequence[str]) -> None:
        """Nothing."""

    def on_unreadable(self, step: int, problems: Sequence[str]) -> None:
        """Nothing."""

    def on_validation(self, step: int, scores: Mapping[str, Any], best: bool) -> None:
        """Nothing."""


def console(*, quiet: bool = False) -> Console:
    """Where commands print: paths and class names stand as they are, brackets and colons included."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False, quiet=quiet)


def summary(scores: Mapping[str, Any]) -> str:
    """The headline numbers of an evaluation in one line, every digit of them."""
    return (
        f"loss {scores['loss']!r}  mIoU {scores['mean_iou']!r}  "
        f"pixel accuracy {scores['pixel_accuracy']!r}"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
