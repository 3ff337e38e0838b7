"""Tasks: everything that is particular to what a model predicts, one task per file."""

from typing import Any

from jaxseg.errors import InputError
from jaxseg.registry import find
from jaxseg.tasks import semantic
from jaxseg.tasks.semantic import Semantic
from jaxseg.tasks.task import Headline, Inspection, ReportParts, Section, Table, Task

__all__ = [
    "Headline",
    "Inspection",
    "ReportParts",
    "Section",
    "Semantic",
    "Table",
    "Task",
    "find_task",
    "names",
]

_TASKS = {**semantic.TASKS}


def names() -> list[str]:
    """Returns the names of the tasks.

    >>> names()
    ['semantic']
    """
    return sorted(_TASKS)


def find_task(name: str) -> Any:
    """Returns the class of a task by its name, or by `"package.module:Class"` for one of your own.

    Raises:
        InputError: An unknown name, or a class without `from_source`.

    >>> find_task("semantic").__name__
    'Semantic'
    """
    task = find("task", name, _TASKS)
    if not hasattr(task, "from_source"):
        raise InputError(f"task {name!r} is no task: it has no `from_source`")
    return task
