"""Where tables are printed whole."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def print_whole(table: Table) -> Console:
    """
    Print a table as wide as it is: an id or a number that is cut or folded cannot be copied.

    :return: The console that is wide enough.
    """
    console = Console()
    width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    if width > console.width:
        console = Console(width=width)
    console.print(table)
    return console
