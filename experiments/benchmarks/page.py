"""Appends rows to the tables of docs/benchmarks.md."""

from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def append(heading: str, introduction: str, lines: Sequence[str]) -> None:
    """Puts rows below the table of a section, which begins with the first of them.

    Args:
        heading: Of the section, such as `## Networks beside their twins`.
        introduction: What stands between the heading and the first row, the table's head included.
        lines: The rows.
    """
    text = PAGE.read_text(encoding="utf-8")
    if heading not in text:
        text = f"{text.rstrip()}\n\n{heading}\n\n{introduction}\n"
    before, heading, after = text.partition(heading)
    section, following, rest = after.partition("\n## ")
    section = section.rstrip("\n") + "\n" + "\n".join(lines) + "\n"
    PAGE.write_text(before + heading + section + following + rest, encoding="utf-8")
