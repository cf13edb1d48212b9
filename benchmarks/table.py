"""
Print means with intervals from the files of ``benchmarks.run``.

    python -m benchmarks.table benchmarks/results/pendulum

An interval is a 95 % Student t interval over seeds of the mean of the last five evaluations.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.run import RESULTS
from sb3_offline.shell.consoles import print_whole

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def read(folder: Path) -> list[dict[str, Any]]:
    """The finished runs below a folder: configuration, summary, and the sub-folder that names the set of options."""
    runs = []
    for path in sorted(folder.rglob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if lines and "config" in lines[0] and "summary" in lines[-1]:
            runs.append({**lines[0]["config"], **lines[-1]["summary"], "set": str(path.parent.relative_to(folder))})
    return runs


def interval(values: np.ndarray) -> str:
    """Mean and half-width of the 95 % interval; a single seed has none."""
    if len(values) < 2:
        return f"{values.mean():.1f}"
    quantile = T_QUANTILES[min(len(values) - 2, len(T_QUANTILES) - 1)]
    return f"{values.mean():.1f} ± {quantile * values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS)
    folder = parser.parse_args().folder
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in read(folder):
        share = f"{100 * run.get('fraction', 1.0):g} %"
        groups[(run["set"], run["dataset"], share, run["algo"], f"{run['steps']:,}")].append(run)
    table = Table(title=str(folder))
    for column in ("set", "dataset", "of it", "algorithm", "steps"):
        table.add_column(column)
    for column in ("seeds", "data's return", "return", "normalised", "best return", "minutes"):
        table.add_column(column, justify="right")
    for key, runs in sorted(groups.items()):
        scores = [run["normalized_mean_last_5"] for run in runs]
        table.add_row(
            *key,
            str(len(runs)),
            f"{runs[0]['data_mean_return']:.1f}",
            interval(np.array([run["mean_last_5"] for run in runs])),
            "-" if None in scores else interval(np.array(scores)),
            f"{np.mean([run['best'] for run in runs]):.1f}",
            f"{np.mean([run['seconds'] for run in runs]) / 60:.1f}",
        )
    print_whole(table)


if __name__ == "__main__":
    main()
