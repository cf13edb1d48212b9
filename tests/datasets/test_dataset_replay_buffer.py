"""A filled SB3 replay buffer as data: order of time, time limits, action units."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_offline.datasets import DatasetError, DatasetWarning, load_dataset
from sb3_offline.datasets.checks import check_dataset

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (1,), np.float64)
ACTIONS = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))


def fill(buffer: ReplayBuffer, steps: int, done_at: dict[int, str]) -> None:
    """Step t of env e has observation 100 e + t, reward t; ``done_at`` says how a step of all envs ends."""
    for t in range(steps):
        obs = np.array([[100.0 * e + t] for e in range(buffer.n_envs)])
        scaled = np.full((buffer.n_envs, 2), -1.0 + 0.25 * t)
        ended = np.full(buffer.n_envs, t in done_at)
        infos = [{"TimeLimit.truncated": done_at.get(t) == "timeout"}] * buffer.n_envs
        buffer.add(obs, obs + 1, scaled, np.full(buffer.n_envs, float(t)), ended, infos)


def test_two_envs_and_a_ring_that_wrapped() -> None:
    buffer = ReplayBuffer(10, OBSERVATIONS, ACTIONS, device="cpu", n_envs=2)  # 5 rows an env
    fill(buffer, 8, {4: "timeout", 6: "end"})  # rows 0-2 are overwritten
    data: Any = load_dataset(buffer)
    assert data.observations[:, 0].tolist() == [3, 4, 5, 6, 7, 103, 104, 105, 106, 107]
    assert data.next_observations[:, 0].tolist() == [4, 5, 6, 7, 8, 104, 105, 106, 107, 108]
    assert data.rewards.tolist() == [3, 4, 5, 6, 7] * 2
    assert data.truncations.tolist() == [False, True, False, False, True] * 2  # the streams end at rows 4 and 9
    assert data.terminations.tolist() == [False, False, False, True, False] * 2
    assert data.episode_lengths().tolist() == [2, 2, 1, 2, 2, 1]
    # -1 + t/4 is scaled: bounds [-2, 2] and [0, 10]
    np.testing.assert_allclose(data.actions[0], [-0.5, 3.75])
    np.testing.assert_allclose(data.actions[4], [1.5, 8.75])
    assert data.observations.dtype == np.float32


def test_a_buffer_that_is_not_full() -> None:
    buffer = ReplayBuffer(10, OBSERVATIONS, ACTIONS, device="cpu")
    fill(buffer, 3, {1: "end"})
    data: Any = load_dataset(buffer)
    assert data.observations[:, 0].tolist() == [0, 1, 2]
    assert data.terminations.tolist() == [False, True, False]
    assert data.truncations.tolist() == [False, False, True]


def test_a_second_call_of_learn_resets_the_env_in_mid_episode() -> None:
    model: Any = SAC("MlpPolicy", "Pendulum-v1", learning_starts=9999, buffer_size=1000, seed=0, device="cpu")
    model.learn(150)
    model.learn(320)
    data: Any = load_dataset(model.replay_buffer, env_id="Pendulum-v1")
    assert data.episode_lengths().tolist() == [150, 200, 120]
    assert not data.terminations.any()
    assert "broken" not in {finding.check for finding in check_dataset(data)}


def test_a_break_of_dict_observations_is_a_cut() -> None:
    space = spaces.Dict(a=OBSERVATIONS, b=OBSERVATIONS)
    buffer = DictReplayBuffer(8, space, ACTIONS, device="cpu")
    steps = [(0, 1), (1, 2), (7, 8), (8, 9)]  # cut after the second
    for now, then in steps:
        one, other = ({"a": np.array([[float(x)]]), "b": np.zeros((1, 1))} for x in (now, then))
        buffer.add(one, other, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])
    assert load_dataset(buffer).truncations.tolist() == [False, True, False, True]


def test_flags_of_buffers_that_change_what_the_rows_mean() -> None:
    def filled(**options: Any) -> ReplayBuffer:
        buffer = ReplayBuffer(10, OBSERVATIONS, ACTIONS, device="cpu", **options)
        fill(buffer, 6, {3: "timeout"})
        return buffer

    with pytest.warns(DatasetWarning, match="handle_timeout_termination=False it does not tell a time limit"):
        assert load_dataset(filled(handle_timeout_termination=False)).terminations.sum() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset(filled()).terminations.sum() == 0
        endless = ReplayBuffer(10, OBSERVATIONS, ACTIONS, device="cpu", handle_timeout_termination=False)
        fill(endless, 6, {})  # nothing ended
        load_dataset(endless)


def test_pendulum_actions_come_back_in_newton_metres() -> None:
    model: Any = SAC("MlpPolicy", "Pendulum-v1", learning_starts=1000, buffer_size=500, seed=0, device="cpu")
    model.learn(450)
    assert np.abs(model.replay_buffer.actions).max() <= 1.0
    data: Any = load_dataset(model.replay_buffer, env_id="Pendulum-v1")
    assert np.abs(data.actions).max() > 1.9
    # Each logged step, taken again in the simulator, leads to the logged next observation.
    env: Any = gym.make("Pendulum-v1").unwrapped
    for row in range(0, 450, 50):
        env.reset()
        cos, sin, speed = data.observations[row].astype(np.float64)
        env.state = np.array([np.arctan2(sin, cos), speed])
        next_obs, reward, *_ = env.step(data.actions[row])
        np.testing.assert_allclose(data.next_observations[row], next_obs, atol=1e-5)
        assert data.rewards[row] == pytest.approx(reward, abs=1e-4)
    assert data.episode_lengths().tolist() == [200, 200, 50]
    assert data.truncations.sum() == 3


def test_discrete_actions() -> None:
    buffer = ReplayBuffer(4, OBSERVATIONS, spaces.Discrete(3), device="cpu")
    for action in (2, 0, 1):
        buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), np.array([[action]]), np.zeros(1), np.array([action == 0]), [{}])
    assert load_dataset(buffer).actions.tolist() == [2, 0, 1]


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(DatasetError, match="the data are empty"):
        load_dataset(ReplayBuffer(4, OBSERVATIONS, ACTIONS, device="cpu"))
    saving = ReplayBuffer(4, OBSERVATIONS, ACTIONS, "cpu", optimize_memory_usage=True, handle_timeout_termination=False)
    with pytest.raises(DatasetError, match="optimize_memory_usage=True"):
        load_dataset(saving)
    with pytest.raises(DatasetError, match="the data are empty"):
        load_dataset(DictReplayBuffer(4, spaces.Dict(a=OBSERVATIONS), ACTIONS, device="cpu"))
    unscaled = ReplayBuffer(4, OBSERVATIONS, ACTIONS, device="cpu")
    unscaled.add(np.zeros((1, 1)), np.zeros((1, 1)), np.array([[1.5, 0.0]]), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(DatasetError, match=r"actions reach 1\.5"):
        load_dataset(unscaled)
