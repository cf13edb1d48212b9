"""
Which checkpoint of a run would an estimator have taken, beside the last one and the best?

    python -m benchmarks.ope_picks benchmarks/results/ope/*.jsonl
    python -m benchmarks.ope_picks runs/hopper --dataset offline/hopper/medium-replay-v0

A file is one of :mod:`benchmarks.ope`. A folder holds checkpoints ``RUN_STEPS.zip``, each with its truth beside it as
``RUN_STEPS.json`` (``{"truth": the simulated return}``); they are estimated first, on ``--dataset``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets import load_dataset
from sb3_offline.ope import FQE, rank
from sb3_offline.shell.models import load_model
from sb3_offline.studies.records import read_lines

Record = dict[str, Any]


def estimated(folder: Path, source: str, fit_steps: int) -> list[Record]:
    """FQE of every checkpoint of a folder, with its truth."""
    files = [path for path in sorted(folder.glob("*.zip")) if path.with_suffix(".json").exists()]
    models = {path.stem: load_model(path, None, False).model for path in files}
    return [
        {
            "policy": one.name,
            "estimator": one.estimate.estimator,
            "value": one.estimate.value,
            "low": one.estimate.low,
            **json.loads((folder / f"{one.name}.json").read_text()),
        }
        for one in rank(models, load_dataset(source), [FQE(n_steps=fit_steps)])
    ]


def picks(records: Iterable[Record], estimator: str = "FQE") -> dict[str, dict[str, float]]:
    """
    The truth of the checkpoints that are taken of each run: by the estimate, by its lower bound, the last and the best one.

    :param records: with ``policy`` (RUN_STEPS), ``estimator``, ``value``, ``low`` and ``truth``
    """
    runs: dict[str, list[tuple[int, Record]]] = {}
    for record in records:
        if record.get("estimator") == estimator and record.get("value") is not None:
            run, _, steps = record["policy"].rpartition("_")
            runs.setdefault(run, []).append((int(steps), record))
    found = {}
    for run, points in runs.items():
        in_order = [record for _, record in sorted(points, key=lambda point: point[0])]
        found[run] = {
            "estimate": max(in_order, key=lambda record: record["value"])["truth"],
            "lower bound": max(in_order, key=lambda record: record["low"])["truth"],
            "last": in_order[-1]["truth"],
            "best": max(record["truth"] for record in in_order),
        }
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="files of benchmarks.ope, or folders of checkpoints")
    parser.add_argument("--dataset", help="that judges the checkpoints of folders")
    parser.add_argument("--fit-steps", type=int, default=FQE.n_steps)
    arguments = parser.parse_args(argv)
    for source in arguments.sources:
        if source.is_dir() and arguments.dataset is None:
            parser.error(f"{source} is a folder: say --dataset, which judges its checkpoints.")
        found = picks(estimated(source, arguments.dataset, arguments.fit_steps) if source.is_dir() else read_lines(source))
        columns = next(iter(found.values()))
        rows = {**found, "mean": {key: float(np.mean([row[key] for row in found.values()])) for key in columns}}
        for run, row in rows.items():
            print(source.stem, run, " ".join(f"{key} {value:.1f}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
