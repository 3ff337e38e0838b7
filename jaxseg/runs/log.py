"""The log of a run: `metrics.jsonl` and TensorBoard event files, with each row once."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxseg.errors import InputError
from jaxseg.imports import block

with block("torch"):  # tensorboardX would import it if it is installed, which takes 1 s
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import scalar

Row = dict[str, Any]
_log = logging.getLogger(__name__)


class RunLog:
    """Appends rows to `metrics.jsonl` and to TensorBoard files in a run folder.

    A resumed run repeats the steps after its last checkpoint. Rows whose kind and step the file already contains are not
    written again, and the file is never truncated.

    Args:
        folder: The run folder, which must exist.

    Raises:
        InputError: The log cannot be written. If only TensorBoard's files cannot be written, a warning is logged and the run
            continues without them.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with RunLog(folder) as log:
    ...     log.write({"kind": "train", "step": 10, "loss": 0.5})
    ...     log.write({"kind": "train", "step": 10, "loss": 0.5})
    >>> read_rows(folder)
    [{'kind': 'train', 'step': 10, 'loss': 0.5}]
    """

    def __init__(self, folder: str | Path):
        self._last: dict[str, int] = {}
        for row in read_rows(folder):
            self._last[row["kind"]] = max(row["step"], self._last.get(row["kind"], -1))
        self._path = Path(folder) / "metrics.jsonl"
        # Not SummaryWriter: its thread ends when the disk is full, and then its caller waits forever.
        self._events: EventsWriter | None = None
        try:
            self._file = self._path.open("a", encoding="utf-8")
            if self._path.stat().st_size and not self._path.read_bytes().endswith(b"\n"):
                self._file.write(
                    "\n"
                )  # ends a line that was interrupted by a kill; `read_rows` skips it
            self._events = EventsWriter(str(Path(folder) / "events"))
        except OSError as error:
            raise InputError(f"cannot write the log in {folder}: {error}") from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes a row.

        Args:
            row: `kind`, `step` and values that JSON can represent; NaN and infinity become null in the file.
        """
        kind, step = row["kind"], row["step"]
        if step <= self._last.get(kind, -1):
            return
        self._last[kind] = step
        try:
            self._file.write(json.dumps(non_finite_to_none(dict(row)), allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error}") from error
        self._write_events(kind, step, row)

    def _write_events(self, kind: str, step: int, row: Mapping[str, Any]) -> None:
        if self._events is None:
            return
        try:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    summary = scalar(f"{kind}/{name}", value)
                    self._events.write_event(
                        Event(wall_time=time.time(), step=step, summary=summary)
                    )
            self._events.flush()
        except OSError as error:
            _log.warning("no more TensorBoard events: %s", error)
            self._close_events()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # each row has been flushed
            self._file.close()
        self._close_events()

    def _close_events(self) -> None:
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None


def read_rows(folder: str | Path) -> list[Row]:
    """Returns the rows of a run's `metrics.jsonl`, oldest first, without lines that are incomplete or damaged."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):  # not JSON, or not UTF-8
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int) and "kind" in row:
                rows.append(row)
    return rows


def non_finite_to_none(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON cannot represent, by None in nested values.

    >>> non_finite_to_none({"iou": [0.5, math.nan]})
    {'iou': [0.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: non_finite_to_none(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [non_finite_to_none(item) for item in value]
    return value
