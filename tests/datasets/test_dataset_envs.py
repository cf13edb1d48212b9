"""The packaged data, their Gymnasium ids, and the stand-in that has only spaces."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_offline.datasets
from sb3_offline.datasets import DatasetError, SpacesOnlyEnv, load_dataset, make_env, open_dataset, register_envs
from sb3_offline.datasets.references import REFERENCE_SCORES

NAMES = ["Pendulum-medium-v0", "Pendulum-medium-replay-v0"]
FOLDER = Path(sb3_offline.datasets.__file__).parent / "builtin"


@pytest.mark.parametrize("name", NAMES)
def test_packaged_data_are_whole_episodes_of_pendulum(name: str) -> None:
    data: Any = load_dataset(f"sb3_offline/{name}")
    assert data.fingerprint() == load_dataset(name).fingerprint() == data.info.card["fingerprint"]
    assert 20_000 <= len(data) <= 50_000
    assert set(data.episode_lengths()) == {200}
    assert not data.terminations.any()
    assert np.flatnonzero(data.truncations).tolist() == list(range(199, len(data), 200))
    assert data.valid_next.all()
    inside = ~data.truncations
    np.testing.assert_array_equal(data.next_observations[inside], data.observations[1:][inside[:-1]])
    assert np.abs(data.actions).max() == pytest.approx(2.0, abs=0.01)
    assert data.env_spec.id == "Pendulum-v1"


@pytest.mark.parametrize("name", NAMES)
def test_packaged_steps_are_those_of_the_simulator(name: str) -> None:
    data: Any = load_dataset(name)
    env: Any = gym.make("Pendulum-v1").unwrapped
    env.reset()
    for row in [*range(0, len(data), 1777), *range(199, len(data), 3000)]:  # the second: last rows of episodes
        cos, sin, speed = data.observations[row].astype(np.float64)
        env.state = np.array([np.arctan2(sin, cos), speed])
        next_obs, reward, *_ = env.step(data.actions[row])
        np.testing.assert_allclose(data.next_observations[row], next_obs, atol=2e-5)
        assert data.rewards[row] == pytest.approx(reward, abs=1e-3)


def test_packaged_cartpole_is_whole_and_of_the_simulator() -> None:
    data: Any = load_dataset("sb3_offline/CartPole-medium-replay-v0")
    card = data.info.card
    assert data.fingerprint() == card["fingerprint"]
    assert len(data) == 20_000
    assert data.actions.dtype == np.int64
    assert set(data.actions.tolist()) == {0, 1}
    assert 40 <= data.summary()["mean_normalized_score"] <= 60
    assert (FOLDER / "CartPole-medium-replay-v0.npz").stat().st_size < 620_000
    assert Path(__file__).parents[2].joinpath(card["made_by"]).is_file()
    inside = ~(data.terminations | data.truncations)[:-1]
    np.testing.assert_array_equal(data.next_observations[:-1][inside], data.observations[1:][inside])
    env: Any = gym.make("CartPole-v1").unwrapped
    env.reset()
    for row in [*range(0, len(data), 1777), *np.flatnonzero(data.terminations)[:5]]:
        env.reset()
        env.state = data.observations[row].astype(np.float64)
        next_obs, reward, terminated, *_ = env.step(int(data.actions[row]))
        np.testing.assert_allclose(data.next_observations[row], next_obs, atol=1e-6)
        assert (data.rewards[row], data.terminations[row]) == (reward, terminated)


@pytest.mark.parametrize(("name", "low", "high"), [(NAMES[0], 40, 60), (NAMES[1], 35, 55)])
def test_packaged_scores_and_cards(name: str, low: float, high: float) -> None:
    data: Any = load_dataset(name)
    card = data.info.card
    assert low <= data.summary()["mean_normalized_score"] <= high
    assert card["mean_return"] == pytest.approx(data.episode_returns().mean())
    assert {"made_by", "command", "seed", "date", "versions", "description", "reference_scores"} <= set(card)
    assert Path(__file__).parents[2].joinpath(card["made_by"]).is_file()
    known = REFERENCE_SCORES["Pendulum-v1"]
    assert known.minimum == pytest.approx(data.info.reference_min_score, abs=0.05)
    assert known.maximum == pytest.approx(data.info.reference_max_score, abs=0.05)


def test_packaged_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) < 3_000_000


def test_replay_covers_poor_and_good_behaviour() -> None:
    data: Any = load_dataset("Pendulum-medium-replay-v0")
    scores = [data.normalized_score(value) for value in data.episode_returns()]
    assert min(scores) < 10
    assert np.mean(np.array(scores) > 85) > 0.1
    angles = np.arctan2(data.observations[:, 1], data.observations[:, 0])
    assert np.all(np.histogram(angles, bins=12, range=(-np.pi, np.pi))[0] > 200)


@pytest.mark.parametrize("name", NAMES)
def test_registered_ids(name: str) -> None:
    register_envs()
    register_envs()
    env: Any = gym.make(f"sb3_offline/{name}", render_mode="rgb_array")
    assert env.spec.id == f"sb3_offline/{name}"
    assert env.spec.max_episode_steps == 200
    plain: Any = gym.make("Pendulum-v1")
    assert env.reset(seed=3)[0].tolist() == plain.reset(seed=3)[0].tolist()
    done = False
    steps = 0
    while not done:
        step, expected = env.step(np.array([0.5], np.float32)), plain.step(np.array([0.5], np.float32))
        np.testing.assert_array_equal(step[0], expected[0])
        done, steps = step[2] or step[3], steps + 1
    assert steps == 200
    assert env.unwrapped.get_dataset().fingerprint() == load_dataset(name).fingerprint()
    assert DummyVecEnv([lambda: Monitor(env)]).has_attr("get_dataset")


def test_make_env_takes_gymnasium_arguments_and_survives_pickling() -> None:
    env: Any = make_env("Pendulum-medium-v0", render_mode="rgb_array")
    assert env.render_mode == "rgb_array"
    assert len(pickle.loads(pickle.dumps(env)).unwrapped.get_dataset()) == len(load_dataset("Pendulum-medium-v0"))
    with pytest.raises(DatasetError, match="names no environment"):
        make_env({"observations": []})


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        gym.registry, "Hopper-v5", gym.envs.registration.EnvSpec("Hopper-v5", entry_point="no_such_package:Env")
    )
    box = spaces.Box(-1.0, 1.0, (1,))
    info: Any = open_dataset("Pendulum-medium-v0", env_id="Hopper-v5", observation_space=box, action_space=box).info
    with pytest.raises(DatasetError, match=r'Hopper-v5, which cannot be made here.*pip install "gymnasium\[mujoco\]"'):
        info.make_env()


def test_spaces_only_env() -> None:
    box = spaces.Box(np.array([-1.0, 2.0], np.float32), np.array([1.0, 3.0], np.float32))
    env: Any = SpacesOnlyEnv(box, spaces.Discrete(2), gym.spec("Pendulum-v1"))
    for _ in range(2):
        obs, info = env.reset(seed=0)
        assert obs.tolist() == [0.0, 2.0]
        assert obs.dtype == np.float32
        assert info == {}
    assert env.spec.id == "Pendulum-v1"
    with pytest.raises(RuntimeError, match=r"no simulator.*set_env"):
        env.step(0)
    assert SpacesOnlyEnv(spaces.Discrete(4, start=2), box).reset()[0] == 2
    many = SpacesOnlyEnv(spaces.MultiDiscrete([3, 4]), box)
    assert many.reset()[0].tolist() == many.reset()[0].tolist()
    assert many.observation_space.contains(many.reset()[0])
    assert np.asarray(DummyVecEnv([lambda: Monitor(env)]).reset()).tolist() == [[0.0, 2.0]]


@pytest.mark.slow
def test_the_script_makes_the_packaged_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes minutes; equal only with the versions and the kind of processor that the card names."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    script = importlib.import_module("make_pendulum_datasets")
    for name, (dataset, _) in script.make(seed=0).items():
        packaged = load_dataset(name)
        assert abs(dataset.episode_returns().mean() - packaged.episode_returns().mean()) < 100
