"""Goals that are replaced where batches are drawn: those of the same episode, with the rewards that belong to them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC, HerReplayBuffer

from sb3_offline import CQL, OfflineSAC
from sb3_offline.buffers.goal_buffer import GoalDatasetBuffer
from sb3_offline.datasets import DatasetError, OfflineDataset, load_dataset, relabel_goals

STEP, CLOSE, LENGTH = 0.15, 0.12, 25


class Reach(gym.Env):
    """A point in the square [-1, 1]^2 that moves by up to 0.15 an axis and step; the reward is 0 near the goal, else -1."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self) -> None:
        plane = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict({"observation": plane, "achieved_goal": plane, "desired_goal": plane})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, infos: Any) -> np.ndarray:
        return np.where(np.linalg.norm(achieved - desired, axis=-1) < CLOSE, 0.0, -1.0)

    def _observe(self) -> dict[str, np.ndarray]:
        place = self.place.astype(np.float32)
        return {"observation": place, "achieved_goal": place.copy(), "desired_goal": self.goal}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 2), 0
        self.goal = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + STEP * np.clip(action, -1, 1), -1, 1)
        self.steps += 1
        reward = float(self.compute_reward(self.place.astype(np.float32), self.goal, {}))
        return self._observe(), reward, False, self.steps == LENGTH, {}


def random_data(n_episodes: int, seed: int = 0) -> OfflineDataset:
    env, rng = Reach(), np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for number in range(n_episodes):
        observation, _ = env.reset(seed=seed + number)
        truncated = False
        while not truncated:
            action = rng.uniform(-1, 1, 2).astype(np.float32)
            following, reward, _, truncated, _ = env.step(action)
            rows.append((observation, action, reward, following, truncated))
            observation = following
    observations, actions, rewards, successors, truncations = zip(*rows, strict=True)

    def stacked(several: Any) -> dict[str, np.ndarray]:
        return {key: np.stack([one[key] for one in several]) for key in env.observation_space}

    arrays = {
        "observations": stacked(observations),
        "actions": np.stack(actions),
        "rewards": np.array(rewards),
        "next_observations": stacked(successors),
        "terminations": np.zeros(len(rows), bool),
        "truncations": np.array(truncations),
    }
    return load_dataset(arrays, observation_space=env.observation_space, action_space=env.action_space)


def buffer_of(data: OfflineDataset) -> GoalDatasetBuffer:
    buffer = GoalDatasetBuffer(len(data), data.observation_space, data.action_space, "cpu")
    buffer.load(data)
    buffer.generator = th.Generator().manual_seed(0)
    return buffer


@pytest.mark.parametrize("strategy", ["future", "final", "episode"])
def test_goals_come_from_the_same_episode(strategy: Any) -> None:
    data = random_data(6)
    buffer = buffer_of(relabel_goals(data, Reach().compute_reward, 4, strategy))
    index = th.arange(len(data)).repeat(200)
    samples: Any = buffer._get_samples(index)
    achieved = data.next_observations["achieved_goal"]
    places = {tuple(goal): row for row, goal in enumerate(achieved.tolist())}
    logged = th.as_tensor(data.observations["desired_goal"])[index]
    replaced = (samples.observations["desired_goal"] != logged).any(dim=1)
    assert abs(replaced.float().mean() - 0.8) < 0.01  # 30,000 draws: 4 standard deviations are 0.009
    sources = np.array([places[tuple(goal)] for goal in samples.observations["desired_goal"][replaced].tolist()])
    rows = index[replaced].numpy()
    assert (sources // LENGTH == rows // LENGTH).all()
    offset = sources % LENGTH
    if strategy == "final":
        assert (offset == LENGTH - 1).all()
    elif strategy == "future":
        assert (sources >= rows).all()
        first = offset[rows % LENGTH == 0]  # any of the 25 rows is as likely
        assert len(set(first.tolist())) == LENGTH
        assert abs(first.mean() - 12) < 4 * np.sqrt((LENGTH**2 - 1) / 12 / len(first))
    else:
        assert abs(offset.mean() - 12) < 4 * np.sqrt((LENGTH**2 - 1) / 12 / len(offset))


def test_rewards_are_those_of_the_goals_that_were_drawn() -> None:
    data = random_data(6)
    buffer = buffer_of(relabel_goals(data, Reach().compute_reward))
    buffer.transform_rewards(2.0, 1.0)
    samples: Any = buffer.sample(2000)
    distance = (samples.next_observations["achieved_goal"] - samples.observations["desired_goal"]).norm(dim=1)
    clear = (distance - CLOSE).abs() > 1e-6
    assert th.equal(samples.rewards[clear, 0], th.where(distance < CLOSE, 1.0, -1.0)[clear])
    assert th.equal(samples.observations["desired_goal"], samples.next_observations["desired_goal"])
    assert (samples.rewards == 1.0).float().mean() > 0.1  # logged goals are reached in few rows
    assert (data.rewards == 0.0).mean() < 0.05


def test_terminations_stay_or_are_computed() -> None:
    data, env = random_data(4), Reach()
    assert not buffer_of(relabel_goals(data, env.compute_reward)).sample(500).dones.any()
    ends = relabel_goals(data, env.compute_reward, compute_terminated=lambda *pair: env.compute_reward(*pair) == 0)
    samples = buffer_of(ends).sample(2000)
    assert samples.dones.any()
    assert th.equal(samples.dones[samples.dones > 0], samples.rewards[samples.dones > 0] + 1)


def test_what_has_no_goals_is_refused() -> None:
    data = random_data(2)
    with pytest.raises(DatasetError, match="goals are found in observations of a Dict space with observation"):
        relabel_goals(load_dataset("Pendulum-medium-v0"), Reach().compute_reward)
    with pytest.raises(ValueError, match="goal_selection_strategy must be one of"):
        relabel_goals(data, Reach().compute_reward, goal_selection_strategy="past")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_sampled_goal must be at least 1"):
        relabel_goals(data, Reach().compute_reward, 0)
    small = {"batch_size": 32, "policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}
    with pytest.raises(ValueError, match="one finite number for each is needed"):
        OfflineSAC("MultiInputPolicy", Reach(), dataset=relabel_goals(data, lambda *_: np.zeros(3)), **small).learn(1)
    with pytest.raises(ValueError, match="not for data whose goals are replaced"):
        OfflineSAC("MultiInputPolicy", Reach(), dataset=relabel_goals(data, len), storage="mmap", **small).learn(1)
    with pytest.raises(ValueError, match="calibrated=True compares Q with the returns of the logged goals"):
        CQL("MultiInputPolicy", Reach(), dataset=relabel_goals(data, Reach().compute_reward), calibrated=True, **small).learn(
            1
        )
    with pytest.raises(DatasetError, match="goals to replace"):
        load_dataset([data, relabel_goals(data, Reach().compute_reward)])


@pytest.mark.filterwarnings("ignore:.*hindsight")
def test_rows_of_a_hindsight_buffer() -> None:
    options: dict[str, Any] = {"replay_buffer_class": HerReplayBuffer, "buffer_size": 200, "learning_starts": 1000}
    model = SAC("MultiInputPolicy", Reach(), seed=0, **options).learn(100)
    data = relabel_goals(load_dataset(model.replay_buffer), Reach().compute_reward)
    assert len(data) == 100
    assert data.n_episodes == 4
    assert buffer_of(data).sample(50).rewards.shape == (50, 1)


SMALL: dict[str, Any] = {"batch_size": 32, "policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}


def test_the_option_draws_what_relabelled_data_draw() -> None:
    data, env = random_data(6), Reach()
    asked = OfflineSAC("MultiInputPolicy", env, dataset=data, goal_relabel="final", n_sampled_goal=2, **SMALL).learn(2)
    given = OfflineSAC("MultiInputPolicy", env, dataset=relabel_goals(data, env.compute_reward, 2, "final"), **SMALL).learn(2)
    ours, theirs = asked.policy.state_dict(), given.policy.state_dict()
    assert all(th.equal(value, theirs[name]) for name, value in ours.items())
    plain = OfflineSAC("MultiInputPolicy", env, dataset=data, **SMALL).learn(2).policy.state_dict()
    assert any(not th.equal(value, plain[name]) for name, value in ours.items())


def test_the_option_needs_goals_and_a_reward() -> None:
    data = random_data(6)
    with pytest.raises(ValueError, match="goal_relabel must be one of"):
        OfflineSAC("MultiInputPolicy", Reach(), dataset=data, goal_relabel="past", **SMALL)
    with pytest.raises(ValueError, match=r"give env=, or dataset=sb3_offline.datasets.relabel_goals"):
        OfflineSAC("MultiInputPolicy", dataset=data, goal_relabel="future", **SMALL).learn(1)
    relabelled = relabel_goals(data, Reach().compute_reward)
    OfflineSAC("MultiInputPolicy", dataset=relabelled, goal_relabel="future", **SMALL).learn(1)


def reached(model: Any, n_episodes: int = 50) -> float:
    """The share of episodes that end near their goal."""
    env, hits = Reach(), 0
    for number in range(n_episodes):
        observation, _ = env.reset(seed=10_000 + number)
        for _ in range(LENGTH):
            observation, reward, *_ = env.step(model.predict(observation, deterministic=True)[0])
        hits += reward == 0.0
    return hits / n_episodes


@pytest.mark.slow
def test_random_moves_teach_to_reach_by_hindsight_alone() -> None:
    data = random_data(200)
    options: dict[str, Any] = {**SMALL, "batch_size": 128, "policy_kwargs": {"net_arch": [64, 64]}, "gamma": 0.9}
    rates: dict[str, Any] = {"learning_rate": 1e-3, "qf_learning_rate": 1e-3, "ent_coef": 0.01}
    shares = {
        relabel: reached(
            OfflineSAC("MultiInputPolicy", Reach(), dataset=data, goal_relabel=relabel, **options, **rates).learn(2500)
        )
        for relabel in ("future", None)
    }
    print(shares)
    assert shares["future"] > 0.8
    assert shares[None] < 0.4
