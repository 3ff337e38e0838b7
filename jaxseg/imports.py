"""Imports of libraries that would import more than is used of them."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Has the import of a module fail, unless it was imported before: for libraries that do without it as well.

    >>> with without("poplib"):
    ...     import poplib
    Traceback (most recent call last):
    ModuleNotFoundError: import of poplib halted; None in sys.modules
    >>> import poplib
    """
    missing: Any = None
    before = sys.modules.setdefault(module, missing)
    try:
        yield
    finally:
        if before is None:
            del sys.modules[module]
