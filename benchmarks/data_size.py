"""
Draw the score against the size of the data, from the files of ``benchmarks.run --fractions``.

    python -m benchmarks.run --algos combo dromo --datasets sb3_offline/Pendulum-medium-replay-v0 --fractions 0.1 0.3 1 \\
        --seeds 0-2 --steps 15000 --demo-options --tag data_size
    python -m benchmarks.data_size benchmarks/results/data_size

Points are single runs (the mean of the last five evaluations), lines join the means over seeds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.run import RESULTS
from benchmarks.table import read

Curve = dict[float, list[tuple[int, float]]]


def curves(runs: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """For each algorithm and share of the data, the transitions and the score of every seed."""
    found: dict[str, Curve] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        score = run["normalized_mean_last_5"]
        found[run["algo"]][run["fraction"]].append((run["transitions"], run["mean_last_5"] if score is None else score))
    return found


def draw(found: Mapping[str, Curve], path: Path) -> None:
    """One line an algorithm, on a logarithmic axis of transitions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for index, (algo, curve) in enumerate(sorted(found.items())):
        runs = np.array([run for _, runs in sorted(curve.items()) for run in runs], dtype=float)
        means = np.array([np.mean(runs, axis=0) for _, runs in sorted(curve.items())])
        axes.plot(means[:, 0], means[:, 1], color=f"C{index}", label=algo)
        axes.scatter(runs[:, 0], runs[:, 1], color=f"C{index}", s=12)
    axes.set(xscale="log", xlabel="logged transitions", ylabel="score, mean of the last five evaluations")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS / "data_size")
    folder = parser.parse_args().folder
    draw(curves(read(folder)), folder / "data_size.png")
    print(folder / "data_size.png")


if __name__ == "__main__":
    main()
