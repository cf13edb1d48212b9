"""What is in the Minari store is a gymnasium env, which knows its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from sb3_offline import CQL
from sb3_offline.datasets import load_dataset
from sb3_offline.shell.writing import write_dataset
from sb3_offline.zoo.envs import gym_id, register_minari_envs, resolve_env_id

minari = pytest.importorskip("minari")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pendulum_arrays: dict[str, np.ndarray]) -> Iterator[Path]:
    """A Minari store with one data set, ``mine/pendulum/random-v0``."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_dataset(load_dataset(pendulum_arrays, env_id="Pendulum-v1"), "mine/pendulum/random-v0")
    yield tmp_path
    gym.registry.pop("minari/mine.pendulum.random-v0", None)


def test_slashes_become_dots() -> None:
    assert gym_id("mujoco/hopper/medium-v0") == "minari/mujoco.hopper.medium-v0"
    assert gym_id("minari/mujoco/hopper/medium-v0") == "minari/mujoco.hopper.medium-v0"
    assert gym_id("minari/mujoco.hopper.medium-v0") == "minari/mujoco.hopper.medium-v0"


@pytest.mark.usefixtures("store")
def test_installed_data_are_envs() -> None:
    assert register_minari_envs() == register_minari_envs() == ["minari/mine.pendulum.random-v0"]
    for name in ("mine/pendulum/random-v0", "minari/mine/pendulum/random-v0", "minari/mine.pendulum.random-v0"):
        assert resolve_env_id(name) == "minari/mine.pendulum.random-v0"
    env = gym.make("minari/mine.pendulum.random-v0")
    assert len(env.unwrapped.get_dataset()) == 1000
    env.reset(seed=0)
    steps = 0
    while True:  # the task's own time limit
        steps += 1
        if env.step(env.action_space.sample())[3]:
            break
    assert steps == 200
    model = CQL("MlpPolicy", "minari/mine.pendulum.random-v0", policy_kwargs={"net_arch": [8]}, batch_size=8, device="cpu")
    model.learn(2)
    assert model.replay_buffer.size() == 1000


def test_without_its_task_data_can_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    box = {
        "observation_space": gym.spaces.Box(-1.0, 1.0, (2,), np.float32),
        "action_space": gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
    }
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.uniform(-1, 1, (20, 2)),
        "actions": rng.uniform(-1, 1, (20, 1)),
        "rewards": rng.normal(size=20),
        "next_observations": rng.uniform(-1, 1, (20, 2)),
        "terminations": np.zeros(20, dtype=bool),
        "truncations": np.arange(20) % 10 == 9,
    }
    write_dataset(load_dataset(arrays, **box), "no/task-v0")
    register_minari_envs()
    with pytest.warns(UserWarning, match="No simulator"):
        env = gym.make("minari/no.task-v0")
    assert len(env.unwrapped.get_dataset()) == 20
    gym.registry.pop("minari/no.task-v0")
