"""
The policies of :mod:`benchmarks.ope`: checkpoints of several algorithms and steps, and what each is worth.

    python -m benchmarks.ope_policies pendulum --policies runs/ope

Networks and runs are small: what is measured is whether estimators tell good policies from bad ones, so they need to differ,
not to be the best. A run whose checkpoints are there, or a truth that is known, is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.equations import AS_PUBLISHED
from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.registry import find_algorithm

GAMMA = 0.99
_SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64]}}
_QUICK: dict[str, Any] = {**_SMALL, "learning_rate": 1e-3}
_PLAIN: dict[str, Any] = {"policy_kwargs": {"net_arch": [64, 64], "layer_norm": False}, "learning_rate": 1e-3}


@dataclass(frozen=True)
class Task:
    """
    One set of policies.

    :param dataset: an id, or the name of a D4RL file
    :param runs: algorithm, seed and options of each training run
    :param steps: gradient steps at which a checkpoint of each run is kept
    :param horizon: steps after which a simulated episode is left: what follows weighs less than 1%
    :param episodes: simulated for the truth; more where first states differ much, and cost little
    :param steps_of: of some algorithms, in place of ``steps``
    """

    dataset: str
    runs: tuple[tuple[str, int, dict[str, Any]], ...]
    steps: tuple[int, ...]
    horizon: int = 460
    episodes: int = 20
    steps_of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def _continuous(**td3bc: Any) -> tuple[tuple[str, int, dict[str, Any]], ...]:
    """Five algorithms on small networks, TD3+BC as published but for ``td3bc``."""
    return (
        ("bc", 0, _QUICK),
        ("td3bc", 0, {**AS_PUBLISHED["td3bc"], **td3bc}),
        ("iql", 0, {**AS_PUBLISHED["iql"], **_PLAIN}),
        ("awac", 0, {**AS_PUBLISHED["awac"], **_PLAIN}),
        ("offline_sac", 0, _SMALL),  # no pessimism: it leaves the data
    )


_CONTINUOUS = _continuous(**_PLAIN)
_DISCRETE = (
    ("discrete_bc", 0, _SMALL),
    ("discrete_iql", 0, _SMALL),
    ("discrete_cql", 0, _SMALL),
    ("discrete_cql", 1, {**_SMALL, "conservative_weight": 10.0}),
    ("discrete_cql", 2, {**_SMALL, "conservative_weight": 0.0}),
)
_LONG = (300, 1000, 3000, 6000)
_LONGER = (1000, 3000, 6000, 12_000)
# with what lets TD3+BC move on these data: at the published weight it imitates their mean, and stands still
_HALFCHEETAH = _continuous(policy_kwargs={"net_arch": [64, 64], "layer_norm": True}, alpha=10.0)

TASKS = {
    "pendulum": Task("sb3_offline/Pendulum-medium-replay-v0", _CONTINUOUS, (250, 1000, 3000, 6000), episodes=100),
    "cartpole": Task("sb3_offline/CartPole-medium-replay-v0", _DISCRETE, (100, 500, 2000, 5000), episodes=100),
    "hopper-medium-replay": Task("offline/hopper/medium-replay-v0", _CONTINUOUS, _LONG),
    "hopper-medium": Task("offline/hopper/medium-v0", _CONTINUOUS, _LONG),
    "halfcheetah-medium-replay": Task(
        "halfcheetah_medium-replay-v0.hdf5", _HALFCHEETAH, _LONGER, steps_of=dict.fromkeys(("bc", "offline_sac"), _LONG)
    ),
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
        steps = task.steps_of.get(algo, task.steps)
        files = [Path(f"{prefix}_{step}.zip") for step in steps]
        if not all(file.exists() for file in files):
            folder.mkdir(parents=True, exist_ok=True)
            model = find_algorithm(algo)("MlpPolicy", dataset=dataset, seed=seed, **options)
            model.learn(steps[-1], callback=_Keep(steps, prefix), log_interval=None)
        paths += files
    return paths


def simulate(model: BaseAlgorithm, envs: Sequence[gym.Env], horizon: int, seed: int) -> dict[str, Any]:
    """
    One whole episode of the deterministic policy in each environment, the time limit passed over until ``horizon``.

    :return: the mean return discounted by ``GAMMA``, its standard error, and the mean undiscounted return within the limit
    """
    limit = horizon if envs[0].spec is None or envs[0].spec.max_episode_steps is None else envs[0].spec.max_episode_steps
    free = [env.unwrapped for env in envs]
    observations = [env.reset(seed=seed + index)[0] for index, env in enumerate(free)]
    rewards = np.zeros((len(envs), max(horizon, limit)))
    alive = list(range(len(envs)))
    for step in range(rewards.shape[1]):
        actions, _ = model.predict(np.asarray(observations, dtype=np.float32)[alive], deterministic=True)
        ended = []
        for index, action in zip(alive, actions, strict=True):
            observations[index], reward, terminated, _, _ = free[index].step(action)
            rewards[index, step] = float(reward)
            if terminated:
                ended.append(index)
        alive = [index for index in alive if index not in ended]
        if not alive:
            break
    discounted = rewards @ GAMMA ** np.arange(rewards.shape[1])
    return {
        "truth": float(discounted.mean()),
        "standard_error": float(discounted.std(ddof=1) / len(envs) ** 0.5),
        "undiscounted": float(rewards[:, :limit].sum(axis=1).mean()),
    }


def policies(name: str, folder: Path, data: Path | None) -> list[tuple[Path, dict[str, Any]]]:
    """
    Each checkpoint of a task with what the simulator says of it, which is kept beside it.

    :param data: the folder of D4RL's files, for the tasks that are one
    """
    task = TASKS[name]
    dataset = task_data(task, data)
    envs = [dataset.make_env() for _ in range(task.episodes)]
    found = []
    for path in train(task, dataset, folder / name):
        kept = path.with_suffix(".json")
        if not kept.exists():
            model = find_algorithm(path.stem.rsplit("_", 2)[0]).load(path, device="cpu")
            kept.write_text(json.dumps(simulate(model, envs, task.horizon, seed=1000)))
        found.append((path, json.loads(kept.read_text())))
    return found


def task_data(task: Task, data: Path | None) -> OfflineDataset:
    """The task's data."""
    is_file = task.dataset.endswith(".hdf5")
    return load_dataset(str(data / task.dataset) if is_file and data is not None else task.dataset)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=sorted(TASKS))
    parser.add_argument("--policies", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--data", type=Path, help="folder of D4RL's files")
    arguments = parser.parse_args(argv)
    for name in arguments.tasks:
        for path, truth in policies(name, arguments.policies, arguments.data):
            print(name, path.stem, json.dumps({key: round(value, 1) for key, value in truth.items()}), flush=True)


if __name__ == "__main__":
    main()
