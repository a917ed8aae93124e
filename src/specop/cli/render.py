"""How tables look in a terminal: columns as kubectl prints them, with colour where it is one."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from specop.cli.loop import Table

_STYLES = {"True": "green", "False": "red", "AwaitingApproval": "yellow", "Unknown": "yellow"}


def page(tables: Sequence[Table]) -> Group:
    """Tables below each other, an empty line between them."""
    parts: list[RichTable | Text] = []
    for table in tables:
        if parts:
            parts.append(Text())
        parts.append(_rich(table))
    return Group(*parts)


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(table.columns):
        last = number == len(table.columns) - 1
        shown.add_column(column, no_wrap=not last, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return shown
