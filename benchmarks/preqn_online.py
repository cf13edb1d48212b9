"""
PreQN online on Pendulum-v1, through SB3's own loop: mean return of the deterministic policy every k steps.

    python -m benchmarks.preqn_online --steps 30000 --seeds 0-2
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise

from benchmarks.run import RESULTS, append, begin, finish, is_finished, parse_option, parse_seeds
from sb3_offline import PreQN, make_env


class Curve(BaseCallback):
    """Ten episodes of the deterministic policy every ``every`` steps, a line each."""

    def __init__(self, path: Path, every: int, seed: int):
        super().__init__()
        self.path, self.every = path, every
        self.env = Monitor(make_env("Pendulum-medium-v0"))
        self.env.reset(seed=seed)
        self.returns: list[float] = []
        self.start = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            mean, _ = evaluate_policy(self.model, self.env, n_eval_episodes=10)
            self.returns.append(float(mean))  # type: ignore[arg-type]
            seconds = round(time.perf_counter() - self.start, 1)
            append(self.path, {"step": self.num_timesteps, "mean_return": self.returns[-1], "seconds": seconds})
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seeds", type=parse_seeds, default=[0])
    parser.add_argument("--eval-every", type=int, default=2000)
    parser.add_argument("--noise", type=float, default=0.1, help="std of the action noise, in units of [-1, 1]")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--activation", default="relu", choices=("relu", "tanh"))
    parser.add_argument("--option", type=parse_option, action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--out", type=Path, default=RESULTS / "preqn_online")
    arguments = parser.parse_args()
    activation = {"relu": th.nn.ReLU, "tanh": th.nn.Tanh}[arguments.activation]
    for seed in arguments.seeds:
        path = arguments.out / f"preqn_Pendulum-v1_seed{seed}.jsonl"
        if is_finished(path):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        config = {name: value for name, value in vars(arguments).items() if name not in ("out", "seeds")}
        partial = begin(path, "preqn_online", arguments.out, {**config, "algo": "preqn", "seed": seed})
        model = PreQN(
            "MlpPolicy",
            "Pendulum-v1",
            policy_kwargs={"net_arch": [arguments.width] * 2, "activation_fn": activation},
            seed=seed,
            **dict(arguments.option),
        )
        curve = Curve(partial, arguments.eval_every, seed)
        noise = NormalActionNoise(np.zeros(1), np.full(1, arguments.noise))
        model.learn_online(arguments.steps, curve, action_noise=noise)
        last = float(np.mean(curve.returns[-5:]))
        finish(partial, path, {"last": curve.returns[-1], "best": max(curve.returns), "mean_last_5": last})
        print(f"seed {seed}: mean of the last five {last:.1f}, best {max(curve.returns):.1f}", flush=True)


if __name__ == "__main__":
    main()
