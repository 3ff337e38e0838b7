"""Appends measurements to docs/benchmarks/*.jsonl and shows the latest of each in docs/benchmarks.md.

A file holds one JSON object per line: `what` was measured, on which `side` of a comparison, `date`, `machine`, `versions`
and the numbers. The page holds, below a line `<!-- NAME.jsonl -->`, a table of the records of the last run of each
measurement; the text around it is written by hand.

    python experiments/benchmarks/append_table.py       # renders every table of the page again
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
Record = Mapping[str, Any]

_WHERE = {"where and when": "{machine}; {versions}; {date:.10}"}
_RUN = {"ready after": "{ready_s:g} s", "peak": "{peak_mib:g} MiB"} | _WHERE
_TIMES = {
    "what": "{what}",
    "side": "{side}",
    "median": "{median_ms:g} ms",
    "spread": "{spread:.0%}",
    "ratio": "{ratio:.2f}",
} | _RUN
TABLES: dict[str, dict[str, str]] = {
    "models": _TIMES,
    "onednn": _TIMES,
    "sliding_window": _TIMES,
    "losses": _TIMES,
    "loader": {
        "what": "{what}",
        "side": "{side}",
        "images/s": "{images_per_s:g}",
        "spread": "{spread:.0%}",
        "ratio": "{ratio:.2f}",
    }
    | _RUN,
    "pixel_cost": {
        "what": "{what}",
        "side": "{side}",
        "ns per pixel": "{ns_per_pixel:g}",
        "spread": "{spread:.0%}",
        "deviation": "{deviation:+.0%}",
        "peak": "{peak_mib:g} MiB",
    }
    | _WHERE,
    "operations": {
        "operation": "{what}",
        "count": "{count}",
        "jaxseg, ms": "{jaxseg_ms:.1f}",
        "torch, ms": "{torch_ms:.1f}",
        "ratio": "{ratio:.2f}",
        "difference per step, ms": "{step_ms:+.0f}",
    },
    "startup": {
        "what": "{what}",
        "side": "{side}",
        "cold": "{cold_s:.1f} s",
        "warm": "{warm_s:.1f} s",
        "cold, in steps": "{cold_steps:.1f}",
        "warm, in steps": "{warm_steps:.1f}",
    }
    | _WHERE,
    "gpu": {
        "what": "{what}",
        "side": "{side}",
        "batch": "{batch}",
        "images/s": "{images_per_s:.1f}",
        "spread": "{spread:.0%}",
        "ratio": "{ratio:.2f}",
        "of the matrix rate": "{matrix_rate:.1%}",
        "ready after": "{ready_s:.1f} s",
        "peak": "{peak_mib:.0f} MiB",
    }
    | _WHERE,
    "gpu_profile": {
        "what": "{what}",
        "batch": "{batch}",
        "step": "{step_ms:.1f} ms",
        "convolution": "{convolution:.1%}",
        "matrix product": "{matrix_product:.1%}",
        "normalization": "{normalization:.1%}",
        "other elementwise": "{other_elementwise:.1%}",
        "copy": "{copy:.1%}",
        "optimizer": "{optimizer:.1%}",
        "idle": "{idle:.1%}",
    }
    | _WHERE,
}
"""The columns of each file's table: a heading, and how a record's number is written below it."""


def rows(name: str, records: Iterable[Record]) -> list[str]:
    """Formats records as rows of a table.

    Args:
        name: The table, a key of `TABLES`.
        records: Measurements. A cell whose number a record lacks stays empty.

    >>> rows("loader", [{"what": "a set", "side": "jaxseg", "images_per_s": 493, "ratio": 1.056}])
    ['| a set | jaxseg | 493 |  | 1.06 |  |  |  |']
    """
    columns = TABLES[name].values()
    return [f"| {' | '.join(_cell(column, record) for column in columns)} |" for record in records]


def latest(records: Sequence[Record]) -> list[Record]:
    """Selects the records of the last run of each measurement, in the order in which measurements first appear.

    >>> old = [{"what": "a", "side": side, "date": "2026-01-01"} for side in ("jaxseg", "torch")]
    >>> new = [{"what": "a", "side": "jaxseg", "date": "2026-02-01"}]
    >>> latest([*old, *new]) == new
    True
    """
    dates = {record["what"]: record["date"] for record in records}
    order = list(dates)
    chosen = {
        (record["what"], record.get("side")): record
        for record in records
        if record["date"] == dates[record["what"]]
    }
    return sorted(chosen.values(), key=lambda record: order.index(record["what"]))


def append(name: str, records: Iterable[Record]) -> None:
    """Appends records to a file and renders its table.

    Args:
        name: The file, a key of `TABLES`.
        records: The measurements of one run.
    """
    path = _history(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), name), encoding="utf-8")


def render(text: str, name: str) -> str:
    """Returns a page whose table of a file shows the latest records.

    Args:
        text: The page. Without a line `<!-- NAME.jsonl -->`, the table gets a section of its own at the end.
        name: The file, a key of `TABLES`.
    """
    lines = _history(name).read_text(encoding="utf-8").splitlines()
    mark, head = f"<!-- {name}.jsonl -->", list(TABLES[name])
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    table += rows(name, latest([json.loads(line) for line in lines]))
    if mark not in text:
        text = f"{text.rstrip()}\n\n## {name}\n\n{mark}\n"
    before, _, after = text.partition(mark + "\n")
    after = re.sub(r"\A(\n(\|.*\n)+)?", "", after)
    return before + "\n".join([mark, "", *table, ""]) + after


def _history(name: str) -> Path:
    return PAGE.parent / "benchmarks" / f"{name}.jsonl"


def _cell(column: str, record: Record) -> str:
    try:
        return column.format(**record)
    except KeyError:
        return ""


def main() -> None:
    """Renders every table that has a file."""
    text = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        if _history(name).exists():
            text = render(text, name)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
