"""
Which estimator ranks policies as the simulator does?

    python -m benchmarks.ope cartpole pendulum --policies runs/ope --fit-steps 2000

Each task has twenty checkpoints (:mod:`benchmarks.ope_policies`). The truth is the mean return of simulated episodes, at least
20, discounted as the estimate is. One line of JSON for each policy and estimator goes to ``results/ope/TASK.jsonl``; the last
one has the figures: Spearman's rank correlation, regret@1 and @3 as shares of the range of truths, coverage of the interval,
CPU seconds a policy. What a file holds already is not estimated again, so a run that was stopped goes on, and estimators can
be added one by one. Nothing was chosen by these returns: estimators run with their defaults, and judge by the data that the
policies were trained on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.ope_policies import GAMMA, TASKS, policies, task_data
from benchmarks.run import RESULTS, append, begin, finish, partial_of
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope import DR, FQE, PDWIS, WIS, DirectMean, Estimate, ModelBased
from sb3_offline.registry import find_algorithm
from sb3_offline.studies.records import read_lines

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
    """The figures of each estimator, over the policies that it could judge, and of what people look at instead."""
    found: dict[str, dict[str, float]] = {}
    judged: dict[str, list[dict[str, Any]]] = {record["estimator"]: [] for record in records}
    for record in records:
        if record.get("value") is not None:
            judged[record["estimator"]].append(record)
    for name, rows in judged.items():
        if len(rows) < 3:
            continue
        truths, undiscounted, values = (np.array([row[key] for row in rows]) for key in ("truth", "undiscounted", "value"))
        inside = [row["low"] <= row["truth"] <= row["high"] for row in rows]
        seconds = float(np.mean([row["seconds"] for row in rows]))
        more = {"policies": len(rows), "coverage": float(np.mean(inside)), "seconds": seconds}
        whole = {f"{key}_undiscounted": value for key, value in figures(undiscounted, values).items()}
        found[name] = figures(truths, values) | whole | more
        if name == "FQE":
            substitutes = {
                "FQE's lower bound": [row["low"] for row in rows],
                "FQE's TD error, the least": [-row["diagnostics"]["td_error"] for row in rows],
                "OOD score, the least": [-row["diagnostics"]["ood_score"] for row in rows],
                "last checkpoint": [float(row["policy"].rsplit("_", 1)[1]) for row in rows],
            }
            found |= {key: figures(truths, np.array(column)) for key, column in substitutes.items()}
    fqe, world = ({row["policy"]: row for row in judged.get(name, [])} for name in ("FQE", "ModelBased"))
    if fqe and fqe.keys() == world.keys():
        truths = np.array([row["truth"] for row in fqe.values()])
        bounds = np.array([(row["low"] + world[policy]["low"]) / 2 for policy, row in fqe.items()])
        found["the mean of FQE's and ModelBased's lower bounds"] = figures(truths, bounds)
    return found


def known(path: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The estimates of a file, finished or not, that were made with this configuration."""
    lines = read_lines(partial_of(path)) or read_lines(path)
    if not lines or any(lines[0]["config"].get(key) != value for key, value in config.items()):
        return []
    return [line for line in lines if "estimator" in line]


def run(name: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """One task: estimates of every policy, kept one by one."""
    dataset = task_data(TASKS[name], arguments.data)
    judged = policies(name, arguments.policies, arguments.data)
    judged.sort(key=lambda found: int(found[0].stem.rsplit("_", 1)[1]))  # what is cut short has judged every algorithm
    path = arguments.out / f"{name}.jsonl"
    config = {
        "task": name,
        "dataset": TASKS[name].dataset,
        "gamma": GAMMA,
        "fit_steps": arguments.fit_steps,
        "episodes": TASKS[name].episodes,
    }
    records = known(path, config)
    partial = begin(path, "ope", arguments.out, config)
    for kept in records:
        append(partial, kept)
    done = {(record["estimator"], record["policy"]) for record in records}
    chosen = estimators(dataset, arguments.fit_steps)
    for label, (file, truth) in itertools.product(arguments.estimators or chosen, judged):
        if (label, file.stem) in done:
            continue
        model = find_algorithm(file.stem.rsplit("_", 2)[0]).load(file, device="cpu")
        record: dict[str, Any] = {"policy": file.stem, "estimator": label, **truth}
        start = time.process_time()
        try:
            estimate = chosen[label](model)
            record |= {field: getattr(estimate, field) for field in ("value", "low", "high", "diagnostics")}
        except ValueError as error:
            record["refused"] = str(error)
        record["seconds"] = round(time.process_time() - start, 2)
        append(partial, record)
        records.append(record)
    summary = summarize(records)
    finish(partial, path, {"figures": summary})
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
