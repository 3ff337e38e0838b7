"""Appends rows to the tables of docs/benchmarks.md."""

from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def append(heading: str, introduction: str, lines: Sequence[str]) -> None:
    """Puts rows below a section's own table, and makes the section where there is none.

    The own table has the head that the introduction ends with; without one, rows go below the last table, or the text.

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
    written = section.split("\n")
    head = next((line for line in introduction.split("\n") if line.startswith("|")), None)
    if head in written:
        end = written.index(head)
        while written[end].startswith("|"):
            end += 1
    else:
        tables = [i for i, line in enumerate(written) if line.startswith("|")]
        end = 1 + max(tables or [i for i, line in enumerate(written) if line])
    section = "\n".join([*written[:end], *lines, *written[end:]])
    PAGE.write_text(before + heading + section + following + rest, encoding="utf-8")
