"""Programs that load while the rest of jaxseg is imported: those that the same command used last."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import jax

from jaxseg.cli import kept as kept_programs
from jaxseg.cli.kept import Kept, Loading


class Ahead:
    """Begins to load what a command used last, if that was noted.

    Which programs a run needs is known only when its recipe is read, its data set opened and all its code imported: that
    keeps one core busy for half a second, in which another can load. Until then it is a guess, though never a program of
    another JAX or of another processor.

    Args:
        command: All that was given on the command line, but for what does not change programs.
    """

    def __init__(self, command: str):
        self._note, self._used, self._loading = None, "", Loading()
        folder = kept_programs.place()
        if folder is None:
            return
        device = jax.devices()[0]
        surroundings = kept_programs.fingerprint(device)
        if surroundings is None:
            return
        self._note = folder / f"{kept_programs.digest(surroundings, command)}-last"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self._used = self._note.read_text()
        pool = ThreadPoolExecutor(1, thread_name_prefix="jaxseg")
        for name in ("state", "step"):
            load = kept_programs.read(folder, self._used, name, device)
            if load is not None:
                self._loading[name] = pool.submit(load).result
        pool.shutdown(wait=False)  # the thread ends with its last call

    def give(self, kept: Kept) -> None:
        """Gives what is loading to whom it belongs to; what does not belong to `kept` is left, which is noted."""
        if self._used == kept.digest:
            kept.take(self._loading)
        elif self._note is not None:
            with contextlib.suppress(OSError):
                self._note.parent.mkdir(parents=True, exist_ok=True)
                self._note.write_text(kept.digest)
        self._loading = {}
