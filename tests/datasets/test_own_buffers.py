"""The buffers of this library's models as data: the same rows, also after they went online; imagined ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_offline import COMBO, CQL, DiscreteCQL, load_dataset
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.buffers.storage import make_dataset_buffer
from sb3_offline.datasets import DatasetError, relabel_goals, save_mapped
from tests.datasets.test_goals import Reach, random_data

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 32, "seed": 0, "device": "cpu"}


@pytest.mark.parametrize("storage", ["device", "memory"])
def test_the_logged_data_come_back(storage: Any) -> None:
    data = load_dataset("Pendulum-medium-v0")
    model = CQL("MlpPolicy", dataset=data, storage=storage, **SMALL).learn(1)
    again = load_dataset(model.replay_buffer, env_id="Pendulum-v1")
    for name in ("observations", "rewards", "next_observations", "terminations", "truncations", "valid_next"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name), err_msg=name)
    np.testing.assert_allclose(again.actions, data.actions, atol=1e-6)  # they were scaled and scaled back


def test_discrete_actions_and_rows_without_a_next_observation() -> None:
    data = load_dataset("CartPole-medium-replay-v0")
    arrays = {name: getattr(data, name) for name in ("observations", "actions", "rewards", "terminations", "truncations")}
    data = load_dataset(arrays, env_id="CartPole-v1")
    model = DiscreteCQL("MlpPolicy", "CartPole-v1", dataset=data, **SMALL).learn(1)
    again = load_dataset(model.replay_buffer)
    assert again.actions.tolist() == data.actions.tolist()
    assert again.valid_next.tolist() == data.valid_next.tolist()
    assert again.truncations[:-1].tolist() == data.truncations[:-1].tolist()


def test_after_going_online_both_parts_come_back() -> None:
    data = load_dataset("Pendulum-medium-v0")
    model = CQL("MlpPolicy", "Pendulum-v1", dataset=data, **SMALL).learn(1)
    model.learn_online(250, learning_starts=1000)
    again = load_dataset(model.replay_buffer)
    assert len(again) == len(data) + 250
    assert again.episode_lengths().tolist() == [200] * (len(data) // 200 + 1) + [50]
    assert CQL("MlpPolicy", "Pendulum-v1", dataset=model.replay_buffer, **SMALL).learn(1).replay_buffer.size() == len(again)


@pytest.mark.parametrize("mapped", [False, True])
def test_cuts_of_a_process_that_runs_on_come_back(mapped: bool, tmp_path: Path) -> None:
    """Each row's next observation is the following row's, and what ended by a step to itself was logged."""
    states = np.random.default_rng(0).normal(size=(61, 3)).astype(np.float32)
    ends = np.arange(60) % 20 == 19
    arrays = {"observations": states[:-1], "next_observations": states[1:].copy(), "actions": np.zeros((60, 1))}
    arrays |= {"rewards": np.arange(60.0), "terminations": np.arange(60) == 19}
    arrays["truncations"] = ends & ~arrays["terminations"]
    arrays["next_observations"][19] = states[19]
    data = load_dataset(arrays, observation_space=spaces.Box(-9, 9, (3,)), action_space=spaces.Box(-1, 1, (1,)))
    if mapped:
        save_mapped(data, tmp_path / "data.mmap")
        data = load_dataset(tmp_path / "data.mmap")
    storage: Any = "mmap" if mapped else "device"
    buffer = make_dataset_buffer(storage, data, data.observation_space, data.action_space, th.device("cpu"))
    for held in (buffer, OfflineOnlineBuffer(buffer, 10, 0.5, 0.99)):
        again = load_dataset(held)
        assert again.episode_lengths().tolist() == [20, 20, 20]
        assert again.truncations.tolist() == data.truncations.tolist()
        assert again.valid_next.all()


def test_masks_and_goals_come_back() -> None:
    masks = np.random.default_rng(0).random((40, 3)) < 0.5
    masks[:, 0] = True
    arrays: dict[str, Any] = {"observations": np.arange(40) % 4, "actions": np.zeros(40, int), "rewards": np.zeros(40)}
    arrays |= {"next_observations": np.arange(1, 41) % 4, "terminations": np.zeros(40, bool), "action_masks": masks}
    arrays |= {"next_action_masks": masks[::-1], "truncations": np.arange(40) == 39}
    data = load_dataset(arrays, observation_space=spaces.Discrete(4), action_space=spaces.Discrete(3))
    buffer = make_dataset_buffer("device", data, data.observation_space, data.action_space, th.device("cpu"))
    again: Any = load_dataset(buffer)
    assert again.action_masks.tolist() == masks.tolist()
    assert again.next_action_masks.tolist() == masks[::-1].tolist()
    goals = relabel_goals(random_data(2), Reach().compute_reward)
    buffer = make_dataset_buffer("device", goals, goals.observation_space, goals.action_space, th.device("cpu"))
    assert load_dataset(buffer).info.goals == goals.info.goals


def test_a_loaded_model_has_no_data(tmp_path: Path) -> None:
    CQL("MlpPolicy", dataset="Pendulum-medium-v0", **SMALL).learn(1).save(tmp_path / "model")
    with pytest.raises(DatasetError, match=r"OfflineDatasetBuffer: it holds no rows\..*give the data that"):
        load_dataset(CQL.load(tmp_path / "model").replay_buffer)


def test_imagined_rows_are_no_data() -> None:
    model = COMBO("MlpPolicy", "sb3_offline/Pendulum-medium-v0", dynamics_kwargs={"max_epochs": 1}, **SMALL).learn(1)
    with pytest.raises(DatasetError, match="a dynamics model imagined these transitions"):
        load_dataset(model.model_buffer)
