"""
Does MOPO's learned weight hold the rollouts' mean uncertainty at delta? A line for each rollout of a run.

    python -m benchmarks.mopo_constraint --seeds 0-2
    python -m benchmarks.mopo_constraint --dataset offline/hopper/medium-replay-v0 --steps 30000 --seeds 0-2 --unpenalised

``--unpenalised`` holds the weight at 0, to say whether there is anything to hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.equations import demo_options
from benchmarks.run import RESULTS, append, machine, parse_option, parse_seeds
from sb3_offline import MOPO

PENDULUM = "sb3_offline/Pendulum-medium-replay-v0"
OPTIONS: dict[str, dict[str, Any]] = {PENDULUM: demo_options(MOPO)}  # other data take the defaults


NOTHING = 1e-12  # a largest weight, of which float32 sees nothing beside a reward


class Record(BaseCallback):
    """E[u] of each rollout, and the weight that its policy was trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, float]] = []

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        uncertainty = model.logger.name_to_value["model_rollout/uncertainty"]
        weight = float(model.penalty_coefficient)
        self.lines.append({"step": self.num_timesteps, "uncertainty": uncertainty, "penalty_weight": weight})

    def _on_step(self) -> bool:
        return True


def summarise(lines: Sequence[dict[str, float]], delta: float, steps: int) -> dict[str, float]:
    """Over the last half: E[u], also in deltas, the weight and its coefficient of variation."""
    half = [line for line in lines if line["step"] >= steps / 2]
    uncertainty, weight = (np.array([line[name] for line in half]) for name in ("uncertainty", "penalty_weight"))
    mean = float(weight.mean())
    return {
        "uncertainty": float(uncertainty.mean()),
        "penalty_weight": mean,
        "uncertainty_over_delta": float(uncertainty.mean() / delta),
        "variation_of_weight": float(weight.std() / mean) if mean > 0 else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default=PENDULUM)
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--unpenalised", action="store_true")
    parser.add_argument("--option", type=parse_option, action="append", default=[], metavar="NAME=JSON")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    options = OPTIONS.get(arguments.dataset, {}) | dict(arguments.option)
    if arguments.unpenalised:
        options |= {"max_penalty_weight": NOTHING}
    name = arguments.dataset.split("/", 1)[-1].replace("/", "_").lower() + ("_unpenalised" if arguments.unpenalised else "")
    for seed in arguments.seeds:
        record = Record()
        model = MOPO("MlpPolicy", dataset=arguments.dataset, seed=seed, device="cpu", **options)
        model.learn(arguments.steps, callback=record)
        delta = float(model.penalty_target)
        path = RESULTS / "mopo_constraint" / f"{name}_seed{seed}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        command = "python -m benchmarks.mopo_constraint " + " ".join(sys.argv[1:])
        header = {"command": command, "machine": machine(), "options": options, "delta": delta}
        append(path, header | {"dual_step": {name: float(value) for name, value in model.dual_step._asdict().items()}})
        for line in record.lines:
            append(path, line)
        summary = {"seed": seed, **summarise(record.lines, delta, arguments.steps)}
        append(path, {"summary": summary})
        print(summary, flush=True)


if __name__ == "__main__":
    main()
