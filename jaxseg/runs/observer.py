"""Observers: functions that a run calls as it proceeds, for logs, progress bars and experiment trackers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


def _ignore(*_: Any) -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Observer:
    """Functions to be called during a run; those that are left out do nothing.

    Attributes:
        on_step: `(step)`, after each step has been dispatched to the devices.
        on_train: `(step, logs)`, every `train.log_every` steps: `loss`, `gradient_norm`, each loss by its name,
            `learning_rate`, `images_per_second`, `loader_wait_seconds`, `epoch`.
        on_skip: `(step, names)`, after an update was skipped because it was not finite: the names of the batch's records.
        on_unreadable: `(step, problems)`, after records that cannot be read were replaced by others.
        on_validation: `(step, scores, is_best)`, after each epoch: the task's scores.
        on_test: `(step, scores)`, at the end, where the recipe names a test split.

    >>> seen = []
    >>> observer = Observer(on_train=lambda step, logs: seen.append((step, logs["loss"])))
    >>> observer.on_step(10)
    >>> observer.on_train(10, {"loss": 0.5})
    >>> seen
    [(10, 0.5)]
    """

    on_step: Callable[[int], None] = _ignore
    on_train: Callable[[int, Mapping[str, float]], None] = _ignore
    on_skip: Callable[[int, Sequence[str]], None] = _ignore
    on_unreadable: Callable[[int, Sequence[str]], None] = _ignore
    on_validation: Callable[[int, Mapping[str, Any], bool], None] = _ignore
    on_test: Callable[[int, Mapping[str, Any]], None] = _ignore


def combine(observers: Iterable[Observer]) -> Observer:
    """Returns an observer that calls each of several in their order."""
    observers = tuple(observers)

    def each(name: str) -> Callable[..., None]:
        functions = [getattr(observer, name) for observer in observers]

        def call(*arguments: Any) -> None:
            for function in functions:
                function(*arguments)

        return call

    return Observer(**{field.name: each(field.name) for field in fields(Observer)})
