"""Small real data: random actions on Pendulum, whose action bounds are not +-1, and on CartPole."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th

import sb3_offline  # noqa: F401  (registers the packaged ids)

Arrays = dict[str, Any]

th.set_num_threads(1)  # small networks: threads only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the programs that tests start, too
FAST_DYNAMICS = {"hidden_sizes": (32, 32), "n_members": 3, "n_elites": 2, "max_epochs": 3, "weight_decay": 1e-5}
FAST: dict[str, Any] = {"policy_kwargs": {"net_arch": [32, 32]}, "batch_size": 64, "seed": 0, "device": "cpu"}
#: CQL without its recipe
PLAIN_CQL: dict[str, Any] = {
    "learning_rate": 1e-4,
    "qf_learning_rate": 3e-4,
    "tau": 0.005,
    "policy_kwargs": {"net_arch": [32, 32], "layer_norm": False},
    "averaging_rate": 0.0,
    "ent_coef": "auto",
    "reward_scale": 1.0,
    "gamma": 0.99,
    "conservative": "logsumexp",
}
FAST_MODEL_BASED = FAST | {
    "dynamics_kwargs": FAST_DYNAMICS,
    "dynamics_cache": False,
    "rollout_length": 5,
    "rollout_batch_size": 256,
    "rollout_freq": 50,
}
FAST_DROMO = FAST_MODEL_BASED | {"behavior_kwargs": {"hidden_sizes": (32,), "n_steps": 100}, "n_action_samples": 4}


#: Eq 8 as it stands, where COMBO's and DROMO's defaults are a recipe.
EQ_8 = {"conservative": "expectation", "penalty_states": "model", "reward_scale": 1.0}

#: MOPO as published, where its defaults are a recipe.
PUBLISHED_MOPO = {
    "learning_rate": 1e-4,
    "qf_learning_rate": 3e-4,
    "tau": 0.005,
    "averaging_rate": 0.0,
    "ent_coef": "auto",
    "reward_scale": 1.0,
    "real_ratio": 0.05,
    "policy_kwargs": FAST["policy_kwargs"] | {"layer_norm": False},
}


def fast_options(algorithm: type) -> dict[str, Any]:
    """Whatever of these an algorithm takes makes it quick."""
    return {name: value for name, value in FAST_DROMO.items() if name in inspect.signature(algorithm).parameters}


def maker(cls: type[Any], task: str = "Pendulum-v1", **defaults: Any) -> Any:
    """
    ``make(arrays, **options)``: an algorithm on arrays of a task, with these options where no others are given. ``make`` takes
    another algorithm, too, and ``env``.
    """

    def make(arrays: Any, cls: type[Any] = cls, *, env: Any = task, **options: Any) -> Any:
        return cls("MlpPolicy", env=env, dataset=arrays, **{**defaults, **options})

    return make


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("SB3_OFFLINE_CACHE", str(tmp_path / "dynamics_cache"))


def record(env_id: str, n_episodes: int) -> dict[str, np.ndarray]:
    """Episodes of random actions."""
    env = gym.make(env_id)
    env.action_space.seed(0)
    rows: dict[str, list[Any]] = {
        name: [] for name in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    }
    for episode in range(n_episodes):
        observation, _ = env.reset(seed=episode)
        ended = False
        while not ended:
            action = env.action_space.sample()
            next_observation, reward, terminated, truncated, _ = env.step(action)
            row = (observation, action, reward, next_observation, terminated, truncated)
            for name, value in zip(rows, row, strict=True):
                rows[name].append(value)
            observation, ended = next_observation, terminated or truncated
    return {name: np.asarray(values) for name, values in rows.items()}


@pytest.fixture(scope="session")
def pendulum_arrays() -> dict[str, np.ndarray]:
    """Five episodes of 200 random steps each."""
    return record("Pendulum-v1", 5)


@pytest.fixture(scope="session")
def cartpole_arrays() -> dict[str, np.ndarray]:
    """Forty episodes of about 20 random steps each."""
    return record("CartPole-v1", 40)


def beyond(position: th.Tensor) -> th.Tensor:
    """A generator with 624 numbers left that reads the last of 624 next: torch takes it, and reads on."""
    raw = position.clone().numpy()
    raw[8:12], raw[16:24] = (np.array([624], kind).view(np.uint8) for kind in (np.int32, np.int64))
    return th.from_numpy(raw)
