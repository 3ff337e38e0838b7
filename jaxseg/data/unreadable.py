"""Going on without the records of a source that can no longer be read."""

from typing import Any

from jaxseg.errors import InputError

_IN_ROW = 16


class SkipUnreadable:
    """A source whose unreadable records are replaced by the next one that can be read, and named.

    What takes a record's place holds, under `"unreadable"`, a message for each record that was passed over: training
    lists them, evaluation leaves the record out, for it counts elsewhere already.

    Args:
        source: Any source.

    Raises:
        InputError: On reading: sixteen records in a row cannot be read. That is a disk which has gone, not an image.
    """

    def __init__(self, source: Any):
        self.source = source
        self.num_classes, self.classes = source.num_classes, source.classes
        self.palette, self.ignore_index = source.palette, source.ignore_index

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        problems: list[str] = []
        for offset in range(min(_IN_ROW, len(self))):
            try:
                record = self.source[(index + offset) % len(self)]
            except InputError as error:
                problems.append(str(error))
                continue
            return {**record, "unreadable": problems} if problems else record
        raise InputError(
            f"{len(problems)} records in a row cannot be read, the first of them: {problems[0]}"
        )
