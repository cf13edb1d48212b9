"""The picture of the docs' front page, from the raw figures: ``python scripts/make_front_page_picture.py``."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).parent.parent
DATA_RETURN, REFERENCE = -775.0, -130.9  # mean return of the data, and of the packaged reference policy (score 100)


def main() -> None:
    figure, axes = plt.subplots(figsize=(7, 3.2), constrained_layout=True)
    for folder, algorithm, label in (
        ("pendulum_cql_weight_1", "cql", "CQL"),
        ("pendulum", "combo", "COMBO"),
        ("pendulum_dromo_knn", "dromo", "DROMO"),
    ):
        runs = []
        for path in sorted((ROOT / "benchmarks" / "results" / folder).glob(f"{algorithm}_*replay*_seed[0-2].jsonl")):
            points = [json.loads(line) for line in path.read_text().splitlines()]
            runs.append([(point["step"], point["mean_return"]) for point in points if "step" in point])
        steps = np.array([step for step, _ in runs[0]])
        returns = np.array([[value for _, value in run] for run in runs])
        axes.plot(steps, returns.mean(axis=0), label=f"{label}, {len(runs)} seeds")
        axes.fill_between(steps, returns.min(axis=0), returns.max(axis=0), alpha=0.15)
    axes.axhline(DATA_RETURN, color="0.4", linestyle="--", label="the data")
    axes.axhline(REFERENCE, color="0.7", linestyle=":", label="reference (score 100)")
    axes.set(xlabel="gradient steps on logged data", ylabel="return on Pendulum")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(ROOT / "docs" / "images" / "pendulum.png", dpi=110)


if __name__ == "__main__":
    main()
