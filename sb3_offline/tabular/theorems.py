"""
Which claims of the DROMO paper, and of the remarks on the replay critic, hold: ``main_theorems`` prints the table, measured
afresh on random MDPs.

Run ``python -m sb3_offline.tabular.theorems [--n-mdps 200] [--seed 0]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_offline.tabular import appendix_rows, main_rows
from sb3_offline.tabular.main_rows import Row


def rows(n_mdps: int, seed: int) -> Iterator[Row]:
    """The table's rows, the paper's main text first."""
    main, appendix = np.random.SeedSequence(seed).spawn(2)
    yield from main_rows.rows(main, n_mdps)
    yield from appendix_rows.rows(appendix, n_mdps)


def print_theorems(n_mdps: int = 200, seed: int = 0) -> None:
    """
    Print the table of claims.

    :param n_mdps: random MDPs for each measurement, at least 1
    :param seed: seed of every measurement; the same seed prints the same table
    """
    if n_mdps < 1:
        raise ValueError(f"n_mdps must be at least 1, got {n_mdps}")
    console = Console()
    console = console if console.is_terminal else Console(width=100)
    table = Table(
        title=f"DROMO's claims on {n_mdps} random MDPs, seed {seed}",
        caption="6 states, 3 actions, gamma .9, f ~ U(.1, .9), alpha .5, n(s) = 1 + 100 d(s). "
        '"Elsewhere": an independent measurement on other random MDPs; rates depend on how they are drawn.',
        box=box.SIMPLE_HEAD,
        show_lines=True,
    )
    for header, ratio in (("Claim", 3), ("What is true", 5), ("Counterexample", 4), ("Measured here", 5)):
        table.add_column(header, ratio=ratio)
    with console.status("measuring") as status:
        for row in rows(n_mdps, seed):
            status.update(f"measured: {row.claim}")
            table.add_row(*map(escape, row))
    console.print(table)


def main_theorems(argv: Sequence[str] | None = None) -> int:
    """The command: ``argv`` takes --n-mdps (default 200) and --seed (default 0)."""
    parser = argparse.ArgumentParser(prog="theorems", description="Which claims of the DROMO paper hold, measured")
    parser.add_argument("--n-mdps", type=int, default=200, help="random MDPs a measurement (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every measurement (default: %(default)s)")
    options = parser.parse_args(argv)
    print_theorems(options.n_mdps, options.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main_theorems())
