"""Replacement of records that cannot be read."""

from typing import Any

from jaxseg.data.sources.wrapper import Wrapper
from jaxseg.errors import InputError

_MAX_IN_ROW = 16


class SkipUnreadable(Wrapper):
    """Replaces each unreadable record of a source by the next readable one, and reports it.

    The replacement holds, under `"unreadable"`, a message for each record that was skipped: training lists them, evaluation
    omits the replacement, which it counts at its own index.

    Args:
        source: Any source.

    Raises:
        InputError: On reading: sixteen records in a row cannot be read, which suggests a disk failure.
    """

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        problems: list[str] = []
        for offset in range(min(_MAX_IN_ROW, len(self))):
            try:
                record = self.source[(index + offset) % len(self)]
            except InputError as error:
                problems.append(str(error))
                continue
            return {**record, "unreadable": problems} if problems else record
        raise InputError(
            f"{len(problems)} records in a row cannot be read, the first of them: {problems[0]}"
        )
