"""The base of sources that wrap another source."""

from typing import Any


class Wrapper:
    """A source with the attributes of another, such as `targets`, `classes` or those that a task of your own reads.

    Args:
        source: Any source.
    """

    def __init__(self, source: Any):
        self.source = source

    def __getattr__(self, name: str) -> Any:
        # pickle and copy look up dunder methods before `source` is set.
        if name.startswith("__") or "source" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.source, name)
