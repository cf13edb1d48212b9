"""
Record what rliable makes of two algorithms' scores, for tests/studies/test_report.py to compare with.

rliable does not run with pandas 3. In an environment of its own: pip install rliable "pandas<3"; then

    python scripts/record_rliable.py            # writes tests/studies/rliable.json
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rliable import library, metrics

FILE = Path(__file__).parent.parent / "tests" / "studies" / "rliable.json"


def main() -> None:
    random = np.random.RandomState(0)
    one = np.round(60 + 20 * random.standard_t(3, size=(10, 3)) + np.array([0, 10, -20]), 3)
    two = np.round(50 + 15 * random.standard_normal((10, 3)) + np.array([0, 12, -18]), 3)
    two[:2, 0] = one[:2, 0]  # ties
    scores, thresholds = {"a": one, "b": two}, np.linspace(0, 120, 9)

    def fresh() -> np.random.RandomState:
        return np.random.RandomState(1)

    means, mean_intervals = library.get_interval_estimates(
        scores, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=50_000, random_state=fresh()
    )
    chance, chance_interval = library.get_interval_estimates(
        {"a,b": (one, two)},
        lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        reps=5000,
        random_state=fresh(),
    )
    profiles, _ = library.create_performance_profile(scores, thresholds, reps=5000)
    recorded = {
        "made_by": ", ".join(f"{name} {version(name)}" for name in ("rliable", "pandas", "arch", "numpy", "scipy")),
        "scores": {name: values.tolist() for name, values in scores.items()},
        "thresholds": thresholds.tolist(),
        "iqm": {name: [float(means[name][0]), *mean_intervals[name][:, 0].tolist()] for name in scores},
        "improvement": [float(chance["a,b"][0]), *chance_interval["a,b"][:, 0].tolist()],
        "profiles": {name: profiles[name].tolist() for name in scores},
    }
    FILE.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
