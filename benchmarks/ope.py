"""
Which estimator ranks policies as the simulator does?

    python -m benchmarks.ope cartpole pendulum --policies runs/ope --fit-steps 2000

Each task has twenty checkpoints (:mod:`benchmarks.ope_policies`). The truth is the mean return of 20 simulated episodes,
discounted as the estimate is. One line of JSON for each policy and estimator goes to ``results/ope/TASK.jsonl``; the last one
has the figures: Spearman's rank correlation, regret@1 and @3 as shares of the range of truths, coverage of the 95% interval,
seconds a policy. Nothing was chosen by these returns: estimators run with their defaults, FQE with fewer steps where that is
said.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.ope_policies import GAMMA, TASKS, policies, task_data
from benchmarks.run import RESULTS, append, begin
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope import DR, FQE, PDWIS, WIS, DirectMean, Estimate, ModelBased
from sb3_offline.registry import find_algorithm

Estimators = dict[str, Callable[[Any], Estimate]]


def estimators(dataset: OfflineDataset, fit_steps: int) -> Estimators:
    """Each as a function of a model."""
    small = {"hidden_sizes": (100, 100), "max_epochs": 15}
    fqe: dict[str, Any] = {"gamma": GAMMA, "n_steps": fit_steps}
    asked = (
        FQE(**fqe),
        ModelBased(gamma=GAMMA, dynamics_kwargs=small, n_starts=20),
        WIS(gamma=GAMMA),
        PDWIS(gamma=GAMMA),
        DR(gamma=GAMMA, q=FQE(**fqe, n_critics=1)),
        DirectMean(gamma=GAMMA),
    )
    return {each.name: (lambda model, each=each: each.estimate(model, dataset)) for each in asked}  # type: ignore[misc]


def figures(truths: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """How well ``values`` (n,) rank policies of these ``truths`` (n,)."""
    order, span = np.argsort(-values), float(np.ptp(truths))
    best = float(truths.max())
    return {
        "spearman": float(spearmanr(truths, values).statistic),
        "regret_at_1": (best - float(truths[order[0]])) / span,
        "regret_at_3": (best - float(truths[order[:3]].max())) / span,
    }


def summarize(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The figures of each estimator, over the policies that it could judge; ``last`` trusts the longest training."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(record["estimator"] for record in records):
        rows = [record for record in records if record["estimator"] == name and record.get("value") is not None]
        if len(rows) < 3:
            continue
        truths, values = (np.array([row[key] for row in rows]) for key in ("truth", "value"))
        inside = [row["low"] <= row["truth"] <= row["high"] for row in rows]
        seconds = float(np.mean([row["seconds"] for row in rows]))
        more = {"policies": len(rows), "coverage": float(np.mean(inside)), "seconds": seconds}
        undiscounted = float(spearmanr([row["undiscounted"] for row in rows], values).statistic)
        found[name] = figures(truths, values) | more | {"spearman_undiscounted": undiscounted}
        if name == "FQE":
            errors = -np.array([row["diagnostics"]["td_error"] for row in rows])
            found["FQE's TD error, the least"] = figures(truths, errors)
            found["last checkpoint"] = figures(truths, np.array([float(row["policy"].rsplit("_", 1)[1]) for row in rows]))
    return found


def run(name: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One task: estimates of every policy, kept one by one."""
    dataset = task_data(TASKS[name], arguments.data)
    judged = policies(name, arguments.policies, arguments.data)
    path = arguments.out / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"task": name, "dataset": TASKS[name].dataset, "gamma": GAMMA, "fit_steps": arguments.fit_steps, "episodes": 20}
    partial = begin(path, "ope", arguments.out, config)
    records = []
    chosen = estimators(dataset, arguments.fit_steps)
    for label in arguments.estimators or chosen:
        for file, truth in judged:
            model = find_algorithm(file.stem.rsplit("_", 2)[0]).load(file, device="cpu")
            record: dict[str, Any] = {"policy": file.stem, "estimator": label, **truth}
            start = time.perf_counter()
            try:
                estimate = chosen[label](model)
                fields = ("value", "low", "high", "diagnostics")
                record |= {field: getattr(estimate, field) for field in fields}
            except ValueError as error:
                record["refused"] = str(error)
            record["seconds"] = round(time.perf_counter() - start, 2)
            append(partial, record)
            records.append(record)
    summary = summarize(records)
    append(partial, {"summary": summary})
    partial.replace(path)
    return summary


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=sorted(TASKS))
    parser.add_argument("--policies", type=Path, required=True, help="folder of the checkpoints, which are trained if missing")
    parser.add_argument("--data", type=Path, help="folder of D4RL's files")
    parser.add_argument("--estimators", nargs="+", help="all if not given")
    parser.add_argument("--fit-steps", type=int, default=FQE.n_steps)
    parser.add_argument("--out", type=Path, default=RESULTS / "ope")
    arguments = parser.parse_args(argv)
    for name in arguments.tasks:
        for estimator, found in run(name, arguments).items():
            print(name, estimator, json.dumps({key: round(value, 3) for key, value in found.items()}), flush=True)


if __name__ == "__main__":
    main()
