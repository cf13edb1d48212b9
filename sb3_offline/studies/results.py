"""The figures of a study's finished runs, for a page, a table and a picture."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sb3_offline.commands import printable
from sb3_offline.studies.records import read_runs
from sb3_offline.studies.statistics import Interval, Scores, bootstrap, interquartile_mean, probability_of_improvement

Score = Literal["mean_last_5", "final"]
Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Steps, and mean, least and greatest score over the seeds at each."""


@dataclass(frozen=True)
class Line:
    """One algorithm (with a set of options) on one data set, by its seeds."""

    name: str
    dataset: str
    scores: np.ndarray
    returns: np.ndarray
    data_score: float
    curve: Curve
    minutes: float


@dataclass(frozen=True)
class Results:
    """
    :param normalized: whether scores are normalised (0 random, 100 expert); else they are returns, and no data sets are pooled
    :param lines: by algorithm and data set
    :param pooled: the interquartile mean of each algorithm over the data sets that all have
    :param improvement: P(row beats column), by both names
    :param left_out: what does not count in the pooled figures, and why
    :param score: of a run
    """

    title: str
    normalized: bool
    names: list[str]
    datasets: list[str]
    lines: dict[tuple[str, str], Line]
    shared: list[str]
    pooled: dict[str, Interval]
    improvement: dict[tuple[str, str], Interval]
    left_out: list[str]
    score: Score

    def scores(self, name: str) -> Scores:
        """Of the shared data sets."""
        return [self.lines[name, dataset].scores for dataset in self.shared]


def read_results(folder: Path, score: Score = "mean_last_5") -> Results:
    """
    :param score: of a run: the mean of its last five evaluations, or its final model over more episodes
    :raises ValueError: if there is no finished run below the folder, or one says no figures
    """
    try:
        runs = read_runs(folder)
        if not runs:
            raise ValueError(f"{folder} holds no finished runs (.jsonl): sb3-offline study writes them.")
        return results_of(folder.name, runs, score)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{folder} holds a file (.jsonl) that is no run's, or damaged: {type(error).__name__} {error}."
        ) from error


def results_of(title: str, runs: Sequence[dict[str, Any]], score: Score = "mean_last_5") -> Results:
    """Of runs as :func:`~sb3_offline.studies.records.read_runs` gives them."""
    normalized = all(run[f"normalized_{score}"] is not None for run in runs)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[_name(run), _dataset(run)].append(run)
    lines = {key: _line(*key, own, score, normalized) for key, own in sorted(groups.items())}
    names, datasets = sorted({name for name, _ in lines}), sorted({dataset for _, dataset in lines})
    shared = [dataset for dataset in datasets if all((name, dataset) in lines for name in names)]
    left_out = [f"{dataset}: not all algorithms have finished runs on it" for dataset in datasets if dataset not in shared]
    if not normalized and len(shared) > 1:
        left_out.append("scores of different data sets are returns, of different units: they are not pooled")
        shared = []

    def scores(name: str) -> Scores:
        return [lines[name, dataset].scores for dataset in shared]

    pooled = {name: bootstrap([scores(name)], interquartile_mean) for name in names} if shared else {}
    pairs = itertools.permutations(names, 2) if shared else ()
    improvement = {
        (one, two): bootstrap([scores(one), scores(two)], probability_of_improvement, repeats=500) for one, two in pairs
    }
    return Results(printable(title), normalized, names, datasets, lines, shared, pooled, improvement, left_out, score)


def _name(run: dict[str, Any]) -> str:
    return printable(run["algo"] if run["set"] in (".", "") else f"{run['algo']} {run['set']}")


def _dataset(run: dict[str, Any]) -> str:
    name = Path(run["dataset"]).stem if Path(run["dataset"]).suffix in (".hdf5", ".npz", ".h5") else run["dataset"]
    share = run.get("fraction", 1.0)
    return printable(name if share == 1 else f"{name}, {100 * share:g} %")


def _line(name: str, dataset: str, runs: Sequence[dict[str, Any]], score: Score, normalized: bool) -> Line:
    key, point = (f"normalized_{score}", "normalized_score") if normalized else (score, "mean_return")
    steps = sorted(set.intersection(*({p["step"] for p in run["curve"]} for run in runs)))
    curves = [{p["step"]: p[point] for p in run["curve"]} for run in runs]
    table = np.array([[curve[step] for step in steps] for curve in curves], dtype=float).reshape(len(runs), len(steps))
    data = "normalized_data_mean_return" if normalized else "data_mean_return"
    return Line(
        name,
        dataset,
        np.array([run[key] for run in runs], dtype=float),
        np.array([run[score] for run in runs], dtype=float),
        float(np.mean([run[data] for run in runs])) if all(run.get(data) is not None for run in runs) else float("nan"),
        (np.array(steps), table.mean(axis=0), table.min(axis=0), table.max(axis=0)),
        float(np.mean([run["seconds"] for run in runs])) / 60,
    )
