"""Programs that load while the rest of jaxseg is imported: those that the same command used last."""

import contextlib

import jax

from jaxseg.cli import kept as kept_programs
from jaxseg.cli.kept import Kept


class Ahead:
    """Begins to load what a command used last, if that was noted.

    Which programs a run needs is known only when its recipe is read, its data set opened and all its code imported: that
    keeps one core busy for half a second, in which another can load. Until then it is a guess, though never a program of
    another JAX or of another processor.

    Args:
        command: All that was given on the command line, but for what does not change programs.
    """

    def __init__(self, command: str):
        self._note = self._last = None
        folder = kept_programs.place()
        if folder is None:
            return
        device = jax.devices()[0]
        known = kept_programs.fingerprint(command, device)
        if known is None:
            return
        self._note = folder / f"{known}-last"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self._last = Kept(folder, self._note.read_text(), device)
            self._last.begin("state", "step")

    def take(self, kept: Kept) -> Kept:
        """What is loading, if it is what `kept` names; else that, which is noted for the next time."""
        last, self._last = self._last, None
        if last is not None and last.digest == kept.digest:
            return last
        if self._note is not None:
            with contextlib.suppress(OSError):
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._note.write_text(kept.digest)
        return kept
