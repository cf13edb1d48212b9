"""
The search for default hyperparameters: named variants of an algorithm, halved over seeds.

    MINARI_DATASETS_PATH=... python -m benchmarks.recipes combo --datasets offline/hopper/medium-replay-v0 \
        halfcheetah_medium-replay-v0.hdf5 --steps 20000 --seeds 0 1 2

Every variant runs with the first seed on every data set; the better half goes on with the next seed, and so on. The score is
the final model's normalised return, averaged over data sets and seeds so far. Each run is a file of ``benchmarks.run``
below ``results/recipes``, which resumes, so the search can be stopped and called again. Variants are written in
``benchmarks/recipes.yml``, with the reason for each; those that lost stay there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from benchmarks.run import RESULTS, Run, command, is_finished, parse_text
from benchmarks.table import read
from sb3_offline.shell.consoles import print_whole
from sb3_offline.studies.single import Protocol, run_one

VARIANTS = Path(__file__).with_suffix(".yml")


def variants(algo: str) -> dict[str, dict[str, Any]]:
    """The options of each variant of an algorithm, those that all share included."""
    entries = yaml.safe_load(VARIANTS.read_text())[algo]
    shared = entries.pop("shared", {})
    return {name: shared | (options or {}) for name, options in entries.items()}


def scores(folder: Path, algo: str, name: str) -> list[float]:
    """The final models' normalised scores of a variant's finished runs."""
    return [run["normalized_final"] for run in read(folder / name) if run["algo"] == algo]


def halve(folder: Path, algo: str, names: Sequence[str]) -> list[str]:
    """The better half, the odd one included."""
    ranked = sorted(names, key=lambda name: np.mean(scores(folder, algo, name)), reverse=True)
    return ranked[: math.ceil(len(ranked) / 2)]


def run_variant(folder: Path, name: str, run: Run, options: dict[str, Any], arguments: argparse.Namespace) -> None:
    """One run of a variant, unless it is done."""
    path = folder / name / run.file_name
    if is_finished(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    protocol = Protocol(
        steps=arguments.steps,
        eval_every=arguments.eval_every,
        episodes=arguments.episodes,
        final_episodes=arguments.final_episodes,
        options={key: parse_text(key, value) for key, value in options.items()},
        command=command("recipes", arguments.out),
    )
    summary = run_one(run, protocol, path)
    print(f"{name}, {path.name}: final {summary['final']:.0f}, {summary['seconds'] / 60:.0f} min", flush=True)


def show(folder: Path, algo: str, names: Sequence[str]) -> None:
    table = Table(title=f"{algo}, by the final model's normalised return")
    for column in ("variant", "data set", "seeds", "final", "mean of the last five", "best", "minutes"):
        table.add_column(column)
    for name in names:
        runs = [run for run in read(folder / name) if run["algo"] == algo]
        for dataset in sorted({run["dataset"] for run in runs}):
            of_it = [run for run in runs if run["dataset"] == dataset]
            figures = [[run[key] for run in of_it] for key in ("final", "mean_last_5", "best", "seconds")]
            final, last, best, seconds = map(np.array, figures)
            row = (f"{final.mean():.0f} ± {final.std():.0f}", f"{last.mean():.0f}", f"{best.mean():.0f}")
            table.add_row(name, Path(dataset).name, str(len(of_it)), *row, f"{seconds.mean() / 60:.0f}")
    print_whole(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algo")
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one a round")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--eval-every", type=int, default=2500)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--final-episodes", type=int, default=50)
    parser.add_argument("--only", nargs="+", help="these variants alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "recipes")
    arguments = parser.parse_args()
    options = variants(arguments.algo)
    names = list(arguments.only or options)
    for seed in arguments.seeds:
        for name in names:
            for dataset in arguments.datasets:
                run_variant(arguments.out, name, Run(arguments.algo, dataset, 1.0, seed), options[name], arguments)
        show(arguments.out, arguments.algo, list(options))
        names = halve(arguments.out, arguments.algo, names)


if __name__ == "__main__":
    main()
