"""
A log of Acrobot-v1, on which defaults for discrete actions are chosen, so that CartPole is left to judge them.

    python -m benchmarks.acrobot acrobot.npz
    python -m benchmarks.run --algos discretecombo --datasets acrobot.npz --seeds 0-2 --steps 10000 --tag acrobot

Each episode swings up by pushing the way the second link turns, but for a share of random actions that is drawn anew for each,
between 0.3 and 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

ENV_ID = "Acrobot-v1"
SPEED = 5  # the observation's entry that holds the second link's angular velocity


def collect(n_rows: int, seed: int) -> dict[str, np.ndarray]:
    """At least ``n_rows`` transitions, whole episodes."""
    env, generator = gym.make(ENV_ID), np.random.default_rng(seed)
    names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    columns: dict[str, list] = {name: [] for name in names}
    episode = 0
    while len(columns["rewards"]) < n_rows:
        observation, _ = env.reset(seed=100_000 * seed + episode)
        random_share, over, episode = generator.uniform(0.3, 1.0), False, episode + 1
        while not over:
            swing = int(np.sign(observation[SPEED])) + 1
            action = int(generator.integers(3)) if generator.random() < random_share else swing
            following, reward, terminated, truncated, _ = env.step(action)
            row = (observation, action, float(reward), following, terminated, truncated)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            observation, over = following, terminated or truncated
    env.close()
    return {name: np.array(column) for name, column in columns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arrays: dict[str, Any] = collect(arguments.rows, arguments.seed)
    np.savez_compressed(arguments.path, env_id=ENV_ID, **arrays)


if __name__ == "__main__":
    main()
