"""
Time to a good policy: the wall clock from ``Algo(...)`` to the first evaluation that reaches 80% of the goal.

    python -m benchmarks.time_to_good benchmarks/results/recipes/rollouts_50 benchmarks/results/d3rlpy

It reads the files of ``benchmarks.run`` and ``benchmarks.peer_runs``. Times hold evaluations, and the dynamics' fit if the run
made it: where it came from the cache, the column "fit" says 0. A run that never gets there counts as infinitely slow, and so
does the median of runs of which half do not.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from sb3_offline.shell.consoles import print_whole
from sb3_offline.studies.records import Record, read_runs

GOALS = {"hopper": 2800.0, "halfcheetah": 4600.0}  # mean returns, on each task's medium-replay data
SHARE = 0.8


def goal_of(dataset: str) -> float | None:
    """The goal on these data; None of others."""
    return next((goal for task, goal in GOALS.items() if task in dataset and "medium-replay" in dataset), None)


def first_good(curve: Sequence[Record], threshold: float) -> Record | None:
    """The first evaluation whose mean return reaches the threshold."""
    return next((point for point in curve if point["mean_return"] >= threshold), None)


def rows(runs: Sequence[Record], share: float) -> list[tuple[str, ...]]:
    """Of each data set, set of options and algorithm: how many runs get there, the median time and step, the fit's mean."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for run in runs:
        if goal_of(run["dataset"]) is not None:
            groups[(run["dataset"], run["set"], run.get("library", "sb3_offline"), run["algo"])].append(run)
    found = []
    for key, group in sorted(groups.items()):
        threshold = share * (goal_of(key[0]) or np.inf)
        points = [first_good(run["curve"], threshold) for run in group]
        seconds = np.median([np.inf if point is None else point["seconds"] for point in points])
        steps = np.median([np.inf if point is None else point["step"] for point in points])
        fit = np.mean([run["preparation_seconds"] for run in group])
        reached = f"{sum(point is not None for point in points)} of {len(points)}"
        times = ("-", "-") if np.isinf(seconds) else (f"{seconds / 60:.1f}", f"{steps:,.0f}")
        found.append((*key, f"{threshold:,.0f}", reached, *times, f"{fit / 60:.1f}"))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--share", type=float, default=SHARE, help="of the goal")
    arguments = parser.parse_args(argv)
    table = Table(title="From Algo(...) to a good policy")
    for column in ("data", "set", "library", "algorithm"):
        table.add_column(column)
    for column in ("return of", "reached", "minutes", "steps", "fit, minutes"):
        table.add_column(column, justify="right")
    runs = [
        run | {"set": f"{folder.name}/{run['set']}".removesuffix("/.")}
        for folder in arguments.folders
        for run in read_runs(folder)
    ]
    for row in rows(runs, arguments.share):
        table.add_row(*row)
    print_whole(table)


if __name__ == "__main__":
    main()
