"""
Does MOPO's learned weight hold the rollouts' mean uncertainty at delta? A line each 250 steps, on packaged Pendulum data.

    python -m benchmarks.mopo_constraint --seeds 0-2
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps

from benchmarks.run import RESULTS, append, demo_options, machine, parse_option, parse_seeds
from sb3_offline import MOPO

DATASET = "sb3_offline/Pendulum-medium-replay-v0"


class Record(BaseCallback):
    """E[u] of the latest rollouts over delta, and the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        model: Any = self.model
        ratio, weight = model.rollout_uncertainty / model.penalty_target, model.penalty_coefficient
        self.lines.append(
            {"step": self.num_timesteps, "uncertainty_over_delta": float(ratio), "penalty_weight": float(weight)}
        )
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--option", type=parse_option, action="append", default=[], metavar="NAME=JSON")
    arguments = parser.parse_args()
    options = demo_options(MOPO) | dict(arguments.option)
    for seed in arguments.seeds:
        record = Record()
        model = MOPO("MlpPolicy", dataset=DATASET, seed=seed, **options)
        model.learn(arguments.steps, callback=EveryNTimesteps(250, record))
        path = RESULTS / "mopo_constraint" / f"seed{seed}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        command = "python -m benchmarks.mopo_constraint " + " ".join(sys.argv[1:])
        append(path, {"command": command, "machine": machine(), "options": options, "delta": float(model.penalty_target)})
        for line in record.lines:
            append(path, line)
        last = [line["uncertainty_over_delta"] for line in record.lines if line["step"] > 0.7 * arguments.steps]
        summary = {"seed": seed, "mean_of_last_30_percent": float(np.mean(last)), "last": last[-1]}
        append(path, {"summary": summary})
        print(summary, flush=True)


if __name__ == "__main__":
    main()
