"""Imports of libraries that import more than is used of them."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def block(module: str) -> Iterator[None]:
    """Blocks the import of a module, for libraries that import it only if it is installed.

    A module that is imported already stays importable.

    >>> with block("poplib"):
    ...     import poplib
    Traceback (most recent call last):
    ModuleNotFoundError: import of poplib halted; None in sys.modules
    >>> import poplib
    """
    blocked: Any = None
    before = sys.modules.setdefault(module, blocked)
    try:
        yield
    finally:
        if before is None:
            del sys.modules[module]
