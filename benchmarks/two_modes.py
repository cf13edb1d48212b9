"""
A task that a Gaussian must fail: pillars, each to be passed on its left or on its right.

    python -m benchmarks.two_modes --seeds 0-2

A step shows where a pillar stands, c in [-.2, .2]; the action is where to pass it. Within .4 of c the episode ends, elsewhere
the step pays 1, ten times at most. The data pass .6 to the left or to the right, at equal odds and a little off, but for one
action in ten that is uniform. Whoever imitates them by one Gaussian has its mean at the pillar and a deviation of .6. Returns
of the deterministic policy and of the sampling one, over 100 episodes each, go to ``results/two_modes.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed

from benchmarks.equations import AS_PUBLISHED
from benchmarks.run import RESULTS, machine, parse_seeds
from sb3_offline.registry import find_algorithm, names

N_PILLARS, HALF_WIDTH, WAY_ROUND = 10, 0.4, 0.6
SHARED: dict[str, Any] = {
    "learning_rate": 1e-3,
    "qf_learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [64, 64]},
    "gamma": 0.9,
}
_PLAIN = SHARED | {"policy_kwargs": {"net_arch": [64, 64], "layer_norm": False}}
OPTIONS: dict[str, dict[str, Any]] = {
    "fql": AS_PUBLISHED["fql"] | SHARED | {"distill_weight": 0.3, "normalize_q": True},
    "awac": AS_PUBLISHED["awac"] | _PLAIN,
    "iql": AS_PUBLISHED["iql"] | _PLAIN,
}


class Pillars(gym.Env):
    """Ten pillars in a row."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.passed = 0
        return self._stand(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        hit = abs(float(action[0]) - self.pillar) < HALF_WIDTH
        self.passed += 1
        return self._stand(), float(not hit), hit, self.passed == N_PILLARS, {}

    def _stand(self) -> np.ndarray:
        self.pillar = float(self.np_random.uniform(-0.2, 0.2))
        return np.array([self.pillar], dtype=np.float32)


def passages(n_episodes: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Episodes that pass the pillars on either side, but for what chance does."""
    rng, env = np.random.default_rng(seed), Pillars()
    rows: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    }
    for episode in range(n_episodes):
        observation, hit, truncated = env.reset(seed=seed + episode)[0], False, False
        while not hit and not truncated:
            side = observation + rng.choice([-WAY_ROUND, WAY_ROUND]) + rng.normal(0.0, 0.03, 1)
            action = (rng.uniform(-1.0, 1.0, 1) if rng.random() < 0.1 else side).clip(-1.0, 1.0).astype(np.float32)
            following, reward, hit, truncated, _ = env.step(action)
            for name, value in zip(rows, (observation, action, reward, following, hit, truncated), strict=True):
                rows[name].append(value)
            observation = following
    return {name: np.asarray(values) for name, values in rows.items()}


def score(algo: str, seed: int, steps: int, n_episodes: int) -> dict[str, float]:
    """Mean returns of a policy trained on the passages."""
    model = find_algorithm(algo)(
        "MlpPolicy", Pillars(), dataset=passages(), seed=seed, device="cpu", check_data=False, **OPTIONS.get(algo, SHARED)
    )
    model.learn(steps, log_interval=None)
    returns = {}
    for name, deterministic in (("deterministic", True), ("sampling", False)):
        set_random_seed(seed)  # SB3's policies draw from torch's global generator
        env = Monitor(Pillars())
        env.reset(seed=seed)
        found: Any = evaluate_policy(model, env, n_episodes, deterministic=deterministic, return_episode_rewards=True)[0]
        returns[name] = float(np.mean(found))
    return returns


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", nargs="+", choices=names(), default=["fql", "awac", "iql"])
    parser.add_argument("--seeds", type=parse_seeds, default=[0, 1, 2], help="0-2 or 0,3,5")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "two_modes.json")
    arguments = parser.parse_args(argv)
    th.set_num_threads(1)
    runs = []
    for algo in arguments.algos:
        for seed in arguments.seeds:
            runs.append({"algo": algo, "seed": seed, **score(algo, seed, arguments.steps, arguments.episodes)})
            print(runs[-1], flush=True)
    figures = {
        "machine": machine(),
        "steps": arguments.steps,
        "episodes": arguments.episodes,
        "options": {algo: OPTIONS.get(algo, SHARED) for algo in arguments.algos},
    }
    arguments.out.write_text(json.dumps(figures | {"runs": runs}, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
