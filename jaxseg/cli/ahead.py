"""Programs that load while the rest of jaxseg is imported: those that the same recipe used last."""

import contextlib
from collections.abc import Mapping
from concurrent.futures import Future

from jax.stages import Compiled

from jaxseg.cli import exports
from jaxseg.cli.exports import Exports


class Ahead:
    """Begins to load what a recipe used last, if that was noted.

    Which programs a run needs is known only when its data set is open and all its code imported: that keeps one core busy
    for half a second, in which another can load. Until then it is a guess.

    Args:
        recipe: All that is known of the recipe.
    """

    def __init__(self, recipe: str):
        self._note, self._used = None, ""
        self._loading: dict[str, Future[Compiled]] = {}
        folder = exports.place()
        digest = None if folder is None else exports.digest(recipe)
        if folder is None or digest is None:
            return
        self._note = folder / f"{digest}-last"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self._used = self._note.read_text()
            self._note.touch()  # as of programs, the oldest go first
        for name in ("init", "step"):
            if (program := Exports(folder, self._used).read(name)) is not None:
                self._loading[name] = exports.begin(name, program)

    def give(self, kept: Exports) -> Mapping[str, Future[Compiled]]:
        """What is loading, if it is what `kept` names; else nothing, and `kept` is noted for the next time."""
        loading, self._loading = self._loading, {}
        if self._used == kept.digest:
            return loading
        if self._note is not None:
            with contextlib.suppress(OSError):
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._note.write_text(kept.digest)
        return {}
