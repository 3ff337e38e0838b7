"""Tables in a terminal."""

from rich.console import Console
from rich.table import Table as RichTable

from jaxseg.tasks import Table


def print_table(table: Table, shown: Console) -> None:
    """Prints a table with its title."""
    printed = RichTable(*table.columns, title=table.title or None)
    for row in table.rows:
        printed.add_row(*row)
    shown.print(printed)
