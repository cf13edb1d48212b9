"""Where tables are printed whole."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def narrow_table(*columns: str, words: tuple[str, ...] = (), title: str | None = None) -> Table:
    """
    A table that spends no room on lines.

    :param columns: their heads, the most telling first; numbers stand to the right
    :param words: those that hold text
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.title, table.title_justify = None if title is None else escape(title), "left"
    for name in columns:
        table.add_column(name, justify="left" if name in words else "right", no_wrap=True)
    return table


def print_whole(table: Table) -> Console:
    """
    Print a table without folding or cutting its cells: an id or a number that is cut cannot be copied. A terminal that is
    too narrow gets fewer columns, from the last on; a file or a pipe gets all.

    :return: The console that is wide enough.
    """
    console, left_out = Console(), []
    while _width(table, console) > console.width and console.is_terminal and len(table.columns) > 2:
        left_out.append(str(table.columns.pop().header))
    if _width(table, console) > console.width:
        console = Console(width=_width(table, console))
    console.print(table)
    if left_out:
        console.print(f"[dim]A wider terminal shows {', '.join(reversed(left_out))}, too.[/dim]")
    return console


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum
