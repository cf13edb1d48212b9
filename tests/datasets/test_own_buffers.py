"""The buffers of this library's models as data: the same rows, also after they went online; imagined ones are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sb3_offline import COMBO, CQL, DiscreteCQL, load_dataset
from sb3_offline.datasets import DatasetError

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


def test_imagined_rows_are_no_data() -> None:
    model = COMBO("MlpPolicy", "sb3_offline/Pendulum-medium-v0", dynamics_kwargs={"max_epochs": 1}, **SMALL).learn(1)
    with pytest.raises(DatasetError, match="a dynamics model imagined these transitions"):
        load_dataset(model.model_buffer)
