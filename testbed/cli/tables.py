"""Tables for people, of which nothing is ever cut off."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPED_WIDTH = 160
"""Characters of a line where nobody says how many there is room for."""

GAP = 2
"""Characters between two columns."""


def new_table(columns: Collection[str], *, texts: Collection[str] = (), folding: str | None = None) -> Table:
    """An empty table: figures to the right, ``texts`` to the left, and ``folding`` in several lines if need be."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, GAP // 2), header_style="bold")
    for column in columns:
        if column == folding:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="left" if column in texts else "right", no_wrap=True)
    return table


def print_table(table: Table) -> Console:
    """Print a table as wide as its figures need, be the terminal narrower, and return where more may be printed."""
    from rich.cells import cell_len
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    needed = 0
    for column in table.columns:
        cells = [str(cell) for cell in (column.header, *column.cells)]
        pieces = cells if column.no_wrap else [word for cell in cells for word in cell.split() or [""]]
        column.min_width = max(map(cell_len, pieces))
        needed += column.min_width + GAP
    console.width = max(console.width, needed)
    console.print(table)
    return console
