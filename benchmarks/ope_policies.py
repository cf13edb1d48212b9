"""The policies of :mod:`benchmarks.ope`: checkpoints of several algorithms, seeds and steps, and what each is worth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.registry import find_algorithm

GAMMA = 0.99
_SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}}
_WORLD: dict[str, Any] = {
    **_SMALL,
    "rollout_batch_size": 2000,
    "dynamics_kwargs": {"hidden_sizes": (100, 100), "max_epochs": 15},
}
_TIMID: dict[str, Any] = {**_SMALL, "conservative_weight": 10.0}
_BOLD: dict[str, Any] = {**_SMALL, "conservative_weight": 0.1}


@dataclass(frozen=True)
class Task:
    """
    One set of policies.

    :param dataset: an id, or the name of a D4RL file
    :param runs: algorithm, seed and options of each training run
    :param steps: gradient steps at which a checkpoint of each run is kept
    :param horizon: steps after which a simulated episode is left: what follows weighs less than 1%
    """

    dataset: str
    runs: tuple[tuple[str, int, dict[str, Any]], ...]
    steps: tuple[int, ...]
    horizon: int = 460


_CONTINUOUS = (
    ("cql", 0, _SMALL),
    ("cql", 1, _BOLD),
    ("offline_sac", 0, _SMALL),
    ("combo", 0, {**_WORLD, "conservative_weight": 0.5}),
    ("mopo", 0, _WORLD),
)
_DISCRETE = (
    ("discrete_cql", 0, _SMALL),
    ("discrete_cql", 1, _BOLD),
    ("discrete_cql", 2, _TIMID),
    ("discrete_combo", 0, {**_WORLD, "conservative_weight": 0.5}),
    ("discrete_dromo", 0, {**_WORLD, "conservative_weight": 0.5}),
)
_HOPPER = (("cql", 0, _SMALL), ("cql", 1, _BOLD), ("cql", 2, _TIMID), ("offline_sac", 0, _SMALL), ("offline_sac", 1, _SMALL))

TASKS = {
    "pendulum": Task("sb3_offline/Pendulum-medium-replay-v0", _CONTINUOUS, (250, 1000, 3000, 6000)),
    "cartpole": Task("sb3_offline/CartPole-medium-replay-v0", _DISCRETE, (100, 500, 2000, 5000)),
    "hopper-medium-replay": Task("offline/hopper/medium-replay-v0", _HOPPER, (1000, 5000, 10_000, 20_000)),
    "hopper-medium": Task("offline/hopper/medium-v0", _HOPPER, (1000, 5000, 10_000, 20_000)),
    "halfcheetah-medium-replay": Task("halfcheetah_medium-replay-v0.hdf5", _HOPPER, (1000, 5000, 10_000, 20_000)),
}


class _Keep(BaseCallback):
    """Saves the policy at the wanted steps."""

    def __init__(self, steps: tuple[int, ...], prefix: Path):
        super().__init__()
        self.steps, self.prefix = steps, prefix

    def _on_step(self) -> bool:
        if self.num_timesteps in self.steps:
            self.model.save(f"{self.prefix}_{self.num_timesteps}.zip")
        return True


def train(task: Task, dataset: OfflineDataset, folder: Path) -> list[Path]:
    """The checkpoints; runs that are there already are not repeated."""
    paths = []
    for algo, seed, options in task.runs:
        prefix = folder / f"{algo}_{seed}"
        files = [Path(f"{prefix}_{step}.zip") for step in task.steps]
        if not all(file.exists() for file in files):
            folder.mkdir(parents=True, exist_ok=True)
            model = find_algorithm(algo)("MlpPolicy", dataset=dataset, seed=seed, **options)
            model.learn(task.steps[-1], callback=_Keep(task.steps, prefix), log_interval=None)
        paths += files
    return paths


def simulate(model: BaseAlgorithm, env: gym.Env, horizon: int, episodes: int, seed: int) -> dict[str, Any]:
    """
    Whole episodes of the deterministic policy, the time limit passed over until ``horizon``.

    :return: the mean return discounted by ``GAMMA``, its standard error, and the mean undiscounted return within the limit
    """
    limit = horizon if env.spec is None or env.spec.max_episode_steps is None else env.spec.max_episode_steps
    free = env.unwrapped
    discounted, plain = [], []
    for episode in range(episodes):
        observation, _ = free.reset(seed=seed + episode)
        rewards: list[float] = []
        while len(rewards) < max(horizon, limit):
            action, _ = model.predict(np.asarray(observation, dtype=np.float32), deterministic=True)
            observation, reward, terminated, _, _ = free.step(action)
            rewards.append(float(reward))
            if terminated:
                break
        discounted.append(float(np.sum(np.array(rewards) * GAMMA ** np.arange(len(rewards)))))
        plain.append(float(np.sum(rewards[:limit])))
    return {
        "truth": float(np.mean(discounted)),
        "standard_error": float(np.std(discounted, ddof=1) / len(discounted) ** 0.5),
        "undiscounted": float(np.mean(plain)),
    }


def policies(name: str, folder: Path, data: Path | None, episodes: int = 20) -> list[tuple[Path, dict[str, Any]]]:
    """
    Each checkpoint of a task with what the simulator says of it, which is kept beside it.

    :param data: the folder of D4RL's files, for the tasks that are one
    """
    task = TASKS[name]
    dataset = task_data(task, data)
    found = []
    for path in train(task, dataset, folder / name):
        kept = path.with_suffix(".json")
        if not kept.exists():
            model = find_algorithm(path.stem.rsplit("_", 2)[0]).load(path, device="cpu")
            kept.write_text(json.dumps(simulate(model, dataset.make_env(), task.horizon, episodes, seed=1000)))
        found.append((path, json.loads(kept.read_text())))
    return found


def task_data(task: Task, data: Path | None) -> OfflineDataset:
    """The task's data."""
    is_file = task.dataset.endswith(".hdf5")
    return load_dataset(str(data / task.dataset) if is_file and data is not None else task.dataset)
