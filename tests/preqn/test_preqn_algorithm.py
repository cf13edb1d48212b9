"""PreQN as an SB3 algorithm: offline, online, saved and loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.noise import NormalActionNoise

from sb3_offline import PreQN, load_dataset
from sb3_offline.linearization.q_function import QFunction
from tests.conftest import maker

SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 16, "seed": 0, "device": "cpu"}


make = maker(PreQN, **SMALL)


def test_offline_updates_follow_the_td_errors(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays)
    assert isinstance(model, TD3)
    assert model.critic.n_critics == 1
    data = model.learn(1).replay_buffer.sample(16)
    q = QFunction(model.critic)
    before = q(data.observations, data.actions).detach()
    with th.no_grad():
        next_q = q(data.next_observations, model.actor(data.next_observations))
    delta = (data.rewards + model.gamma * (1 - data.dones) * next_q.unsqueeze(1)).flatten() - before

    class Fixed:
        def sample(self, batch_size: int, env: Any = None) -> Any:
            return data

    model.replay_buffer = Fixed()  # type: ignore[assignment]
    model.update()
    change = q(data.observations, data.actions).detach() - before
    assert float(th.nn.functional.cosine_similarity(change, delta, dim=0)) > 0.97


def test_the_actor_climbs_q(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, learning_rate=1e-4).learn(1)
    observations = model.replay_buffer.sample(500).observations
    before = copy.deepcopy(model.actor)
    model.learn(20, reset_num_timesteps=False)
    with th.no_grad():
        values = [float(model.critic.q1_forward(observations, actor(observations)).mean()) for actor in (before, model.actor)]
    assert values[1] > values[0]


def test_same_seed_same_weights_and_save(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    model, other = (make(pendulum_arrays).learn(10) for _ in range(2))
    assert all(th.equal(a, b) for a, b in zip(model.policy.parameters(), other.policy.parameters(), strict=True))
    model.save(tmp_path / "preqn")
    loaded = PreQN.load(tmp_path / "preqn", device="cpu")
    observation = np.zeros((1, 3), dtype=np.float32)
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )
    assert loaded.align_to == "delta"


def test_online_by_sb3s_own_loop() -> None:
    noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    model = PreQN("MlpPolicy", "Pendulum-v1", **SMALL)
    before = model.critic.q_networks[0][0].weight.clone()
    model.learn_online(250, action_noise=noise, learning_starts=220)
    assert model.num_timesteps == 250
    assert model.replay_buffer.size() == 250
    assert model._n_updates >= 25
    assert not th.equal(before, model.critic.q_networks[0][0].weight)


def test_online_is_checked_as_elsewhere(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = PreQN("MlpPolicy", "Pendulum-v1", **SMALL)
    for options, error in [
        ({"total_timesteps": 0}, "total_timesteps"),
        ({"learning_starts": -1}, "learning_starts"),
        ({"train_freq": 0}, "train_freq"),
        ({"callback": 3}, "callback"),
    ]:
        with pytest.raises((ValueError, TypeError), match=error):
            model.learn_online(**{"total_timesteps": 5, **options})
    spaces = {"observation_space": model.observation_space, "action_space": model.action_space}
    with pytest.raises(ValueError, match="no simulator"):
        PreQN("MlpPolicy", dataset=load_dataset(pendulum_arrays, **spaces), **SMALL).learn_online(5)


@pytest.mark.parametrize(
    ("options", "error"), [({"step_size": 0.0}, "step_size"), ({"align_to": "q"}, "align_to"), ({"cosine": 2.0}, "cosine")]
)
def test_bad_options_are_refused(pendulum_arrays: dict[str, np.ndarray], options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        make(pendulum_arrays, **options)
