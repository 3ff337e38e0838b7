"""What a run writes down while it goes: `metrics.jsonl` and TensorBoard event files, each row once."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorboardX

Row = dict[str, Any]


class RunLog:
    """Appends rows to `metrics.jsonl` and to TensorBoard files in a run folder.

    A resumed run goes again through the steps after its last checkpoint: rows of a kind and step that the file
    already holds are not written a second time, and the file is never truncated.

    Args:
        folder: The run folder; it must exist.

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
        path = Path(folder) / "metrics.jsonl"
        self._file = path.open("a", encoding="utf-8")
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._file.write(
                "\n"
            )  # the line that a kill cut short stands alone and is skipped on reading
        self._events = tensorboardX.SummaryWriter(str(folder), flush_secs=10)

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes a row: `kind`, `step`, and numbers; nan and infinity become null in the file."""
        kind, step = row["kind"], row["step"]
        if step <= self._last.get(kind, -1):
            return
        self._last[kind] = step
        self._file.write(json.dumps(_finite(dict(row)), allow_nan=False) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._events.add_scalar(f"{kind}/{name}", value, step)
        if kind != "train":
            self._events.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()


def read_rows(folder: str | Path) -> list[Row]:
    """The rows of a run's `metrics.jsonl`, oldest first; a line that a kill cut short is left out."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value
