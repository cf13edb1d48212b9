"""Online after offline, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_offline import COMBO, CQL, IQL, load_dataset
from sb3_offline.buffers.buffers import OfflineDatasetBuffer
from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.datasets import SpacesOnlyEnv
from sb3_offline.networks.policies import OfflineSACPolicy
from sb3_offline.training.schedules import HoldThenDecay
from tests.conftest import FAST, FAST_MODEL_BASED, PLAIN_CQL, Arrays, maker

FAST_CQL = FAST | PLAIN_CQL | {"n_action_samples": 4}


make = maker(CQL, **FAST_CQL)


def observations(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


def weights(model: SAC) -> list[th.Tensor]:
    return [value.clone() for value in model.policy.state_dict().values()]


def equal(first: list[th.Tensor], second: list[th.Tensor]) -> bool:
    return all(th.equal(a, b) for a, b in zip(first, second, strict=True))


# --- the buffer ---


def small_buffer(capacity: int, ratio: float, returns: bool = False) -> OfflineOnlineBuffer:
    space, actions = spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,))
    offline = OfflineDatasetBuffer(3, space, actions, "cpu")
    column = th.tensor([[1.0], [2.0], [3.0]])
    offline.write(
        observations=column, actions=0 * column, next_observations=column, rewards=column[:, 0], dones=0 * column[:, 0]
    )
    if returns:
        offline.returns = th.tensor([0.1, 0.2, 0.3])
    offline.generator = th.Generator().manual_seed(0)
    offline.transform_rewards(2.0, 1.0)
    return OfflineOnlineBuffer(offline, capacity, ratio, gamma=0.5)


def step(buffer: OfflineOnlineBuffer, value: float, done: bool = False, timeout: bool = False) -> None:
    array = np.array([[value]], dtype=np.float32)
    buffer.add(array, array, 0 * array, np.array([value]), np.array([done]), [{"TimeLimit.truncated": timeout}])


def test_the_ring_never_overwrites_the_data() -> None:
    buffer = small_buffer(capacity=2, ratio=0.5)
    assert buffer.size() == 3
    for value in (10.0, 11.0, 12.0):
        step(buffer, value)
    assert buffer.rewards.tolist() == [1.0, 2.0, 3.0, 12.0, 11.0]
    assert buffer.size() == 5


def test_shares_of_a_sample() -> None:
    buffer = small_buffer(capacity=10, ratio=0.25)
    assert (buffer.sample_index(100) < 3).all()  # nothing online yet
    step(buffer, 10.0)
    step(buffer, 11.0)
    index = buffer.sample_index(1000)
    assert int((index < 3).sum()) == 250
    assert set(index.tolist()) == {0, 1, 2, 3, 4}
    assert set(buffer.sample(50).rewards.flatten().tolist()) == {3.0, 5.0, 7.0, 21.0, 23.0}  # 2 r + 1 on both sides


def test_a_time_out_is_no_termination() -> None:
    buffer = small_buffer(capacity=4, ratio=0.5)
    step(buffer, 1.0, done=True, timeout=True)
    step(buffer, 1.0, done=True)
    assert buffer.dones[3:5].tolist() == [0.0, 1.0]


def test_online_returns_come_with_the_episodes_end() -> None:
    """Transformed rewards 2r + 1 are 3, 5, gamma 1/2: 3 + 2.5 = 5.5, then 5; until the end there is no reference."""
    buffer = small_buffer(capacity=3, ratio=0.5, returns=True)
    step(buffer, 1.0)
    assert buffer.returns[3] == -th.inf
    step(buffer, 2.0, done=True)
    np.testing.assert_allclose(buffer.returns.numpy(), [0.1, 0.2, 0.3, 5.5, 5.0, -np.inf])
    step(buffer, 1.0, done=True, timeout=True)  # cut: 3 for ever is 3/(1 - 1/2)
    np.testing.assert_allclose(buffer.returns.numpy()[3:], [5.5, 5.0, 6.0])
    step(buffer, 0.0)  # the ring begins anew
    assert buffer.returns[3] == -th.inf


# --- learn_online ---


def test_online_to_buffer_to_offline_to_online() -> None:
    """SAC's own replay buffer is the data; its rows stay while the policy collects new ones."""
    online = SAC("MlpPolicy", "Pendulum-v1", learning_starts=1000, seed=0, device="cpu").learn(300)
    model = make(online.replay_buffer, calibrated=True).learn(5)
    logged = model.replay_buffer.observations.clone()
    np.testing.assert_allclose(logged.numpy(), online.replay_buffer.observations[:300, 0])
    start = weights(model)
    model.learn_online(220, learning_starts=200)
    buffer = model.replay_buffer
    assert (model.num_timesteps, buffer.n_offline, buffer.size()) == (220, 300, 520)
    assert th.equal(buffer.observations[:300], logged)
    assert buffer.returns[300:500].isfinite().all()  # the first episode of 200 steps has ended
    assert not buffer.returns[500:520].isfinite().any()
    batch = model.sample_batch()
    assert len(batch.rewards) == 64
    assert int((batch.observations.unsqueeze(1) == logged).all(-1).any(1).sum()) == 32
    assert not equal(start, weights(model))
    model.learn(3)  # and back
    assert type(model.replay_buffer) is OfflineDatasetBuffer
    assert model.replay_buffer.size() == 300


def test_updates_wait_for_learning_starts_and_the_policy_explores(pendulum_arrays: Arrays) -> None:
    """Nothing is drawn at random: with a tiny deviation the stored actions are the policy's mode."""
    model = make(pendulum_arrays).learn(2)
    with th.no_grad():
        model.actor.log_std.weight.zero_()
        model.actor.log_std.bias.fill_(-15.0)
    start = weights(model)
    model.learn_online(30, gym.make("Pendulum-v1"), learning_starts=30)
    assert equal(start, weights(model))
    rows = slice(1000, 1030)
    expected, _ = model.predict(model.replay_buffer.observations[rows].numpy(), deterministic=True)
    np.testing.assert_allclose(2.0 * model.replay_buffer.actions[rows].numpy(), expected, atol=1e-4)


def test_same_seed_same_online_run(pendulum_arrays: Arrays) -> None:
    def run() -> list[th.Tensor]:
        return weights(make(pendulum_arrays).learn(2).learn_online(30, learning_starts=10))

    first = run()
    th.rand(3)
    assert equal(first, run())


def test_a_second_call_keeps_what_was_collected(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(pendulum_arrays).learn(2).learn_online(20, learning_starts=5)
    model.learn_online(10, learning_starts=5, reset_num_timesteps=False)
    assert (model.num_timesteps, model.replay_buffer.n_online) == (30, 30)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model", env=gym.make("Pendulum-v1"), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer.npz")
    loaded.learn_online(5, learning_starts=0)
    assert (loaded.replay_buffer.n_offline, loaded.replay_buffer.n_online) == (1030, 5)  # the 30 rows are data now
    ours, theirs = (buffer.observations[1000:1030] for buffer in (model.replay_buffer, loaded.replay_buffer))
    assert th.equal(ours, theirs)
    th.testing.assert_close(loaded.replay_buffer.actions[1000:1030], model.replay_buffer.actions[1000:1030])
    again = CQL.load(tmp_path / "model", env=gym.make("Pendulum-v1"), device="cpu")
    again.dataset = pendulum_arrays  # without its buffer it starts from the data
    again.learn_online(5, learning_starts=0)
    assert again.replay_buffer.size() == 1005


def test_schedules_end_where_offline_training_ended(pendulum_arrays: Arrays) -> None:
    options = {"learning_rate": lambda progress: 1e-4 + progress, "qf_learning_rate": 2e-3}
    model = make(pendulum_arrays, **options)
    model.learn_online(12, learning_starts=10)
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert model.critic.optimizer.param_groups[0]["lr"] == pytest.approx(2e-3)
    model.learn_online(12, learning_starts=10, learning_rate=5e-4)
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)
    fallen = make(pendulum_arrays, learning_rate=HoldThenDecay(3e-4), qf_learning_rate=2e-3)  # to 0: it begins anew
    fallen.learn_online(12, learning_starts=10)
    assert fallen.actor.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)
    with pytest.raises(ValueError, match="A learning rate is 0"):
        make(pendulum_arrays, learning_rate=0.0).learn_online(5)


def test_model_based_goes_on_with_its_rollouts(pendulum_arrays: Arrays) -> None:
    model = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **FAST_MODEL_BASED).learn(2)
    model.learn_online(60, learning_starts=10)
    assert len(model.sample_batch().rewards) == 64
    assert model.model_buffer.size() == 2 * 5 * 256  # rolled out again at step 50


def test_vec_normalize_statistics_go_along(pendulum_arrays: Arrays) -> None:
    def wrapped() -> VecNormalize:
        return VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)

    model = make(pendulum_arrays, env=wrapped()).learn(2)
    online = wrapped()
    model.learn_online(5, online, learning_starts=2)
    np.testing.assert_allclose(online.obs_rms.mean, pendulum_arrays["observations"].mean(axis=0), atol=1e-3)
    raw = model.replay_buffer.observations[1000:1005]
    np.testing.assert_allclose(raw.square()[:, :2].sum(1).numpy(), 1.0, atol=1e-3)  # cos^2 + sin^2: rows stay raw
    with pytest.raises(ValueError, match="raw observations"):
        make(pendulum_arrays).learn(1).learn_online(5, wrapped())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offline_ratio": 1.0}, "offline_ratio"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"train_freq": 0}, "train_freq must be at least 1"),
        ({"train_freq": (1, "steps")}, "train_freq must be a number of steps"),
        ({"gradient_steps": -2}, "gradient_steps must be at least -1"),
        ({"callback": EvalCallback(gym.make("MountainCarContinuous-v0"))}, "evaluates in an env with observations in"),
        ({"env": DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)}, r"got 2 environments. Give one.*to_sac\(env\)"),
        ({"action_noise": NormalActionNoise(np.zeros(3), np.ones(3))}, r"action_noise does not fit actions of shape \(1,\)"),
    ],
)
def test_bad_options_are_refused(pendulum_arrays: Arrays, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(pendulum_arrays).learn_online(5, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callback": EvalCallback}, r"make one, EvalCallback\(\.\.\.\)"),
        ({"progress_bar": "no"}, "progress_bar must be True"),
        ({"action_noise": 0.1}, "action_noise must be one of stable_baselines3"),
    ],
)
def test_calls_are_checked_as_those_of_learn(pendulum_arrays: Arrays, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make(pendulum_arrays).learn_online(5, **options)


def test_without_a_simulator_it_says_so(pendulum_arrays: Arrays) -> None:
    data = load_dataset(pendulum_arrays, observation_space=spaces.Box(-8, 8, (3,)), action_space=spaces.Box(-2, 2, (1,)))
    with pytest.raises(ValueError, match="no simulator"):
        make(data, env=None).learn(1).learn_online(5)


# --- to_sac ---


@pytest.mark.parametrize("policy_kwargs", [{"layer_norm": False}, {"layer_norm": True, "normalize_observations": True}])
def test_to_sac_is_the_same_policy(pendulum_arrays: Arrays, tmp_path: Path, policy_kwargs: dict[str, Any]) -> None:
    model = make(pendulum_arrays, policy_kwargs={"net_arch": [32, 32], **policy_kwargs}).learn(20)
    sac = model.to_sac(learning_starts=10)
    assert type(sac) is SAC
    assert type(sac.policy) is (OfflineSACPolicy if policy_kwargs["layer_norm"] else SACPolicy)
    expected, _ = model.predict(observations(), deterministic=True)
    np.testing.assert_array_equal(sac.predict(observations(), deterministic=True)[0], expected)
    assert sac.log_ent_coef.item() == model.log_ent_coef.item()
    moments = [state["exp_avg"] for state in sac.critic.optimizer.state_dict()["state"].values()]
    assert moments
    for ours, theirs in zip(model.critic.optimizer.state_dict()["state"].values(), moments, strict=True):
        assert th.equal(ours["exp_avg"], theirs)
    sac.save(tmp_path / "sac")
    loaded = SAC.load(tmp_path / "sac", env=gym.make("Pendulum-v1"), device="cpu")
    np.testing.assert_array_equal(loaded.predict(observations(), deterministic=True)[0], expected)
    start = weights(sac)
    sac.learn(15)
    assert not equal(start, weights(sac))
    assert equal(start, weights(model))  # nothing is shared


@pytest.mark.parametrize("env", ["MountainCarContinuous-v0", "CartPole-v1"])
def test_to_sac_in_another_task_is_refused(pendulum_arrays: Arrays, env: str) -> None:
    model = make(pendulum_arrays)
    for given in (env, gym.make(env), DummyVecEnv([lambda: gym.make(env)])):
        with pytest.raises(ValueError, match="spaces do not match"):
            model.to_sac(given)
    with pytest.raises(TypeError, match="env must be"):
        model.to_sac(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"policy_kwargs": {"net_arch": [16]}}, "other networks than the model's"), ({"use_sde": True}, "depends on the state")],
)
def test_to_sac_with_other_networks_is_refused(pendulum_arrays: Arrays, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(pendulum_arrays).to_sac(**options)


def test_dict_observations_are_refused_with_a_way_that_there_is() -> None:
    env = SpacesOnlyEnv(spaces.Dict({"a": spaces.Box(-9, 9, (2,))}), spaces.Box(-1, 1, (1,)))
    for cls, way_on in ((CQL, r"to_sac\(env\)"), (IQL, r"sb3-offline collect.*dataset=\[old, new\]")):
        with pytest.raises(ValueError, match=f"no dict observations.*{way_on}"):
            cls("MultiInputPolicy", env, device="cpu").learn_online(3)


def test_to_sac_normalises_as_the_training_did(pendulum_arrays: Arrays) -> None:
    def wrapped() -> VecNormalize:
        return VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)

    model, raw = make(pendulum_arrays, env=wrapped()).learn(2), make(pendulum_arrays).learn(1)
    with pytest.raises(ValueError, match="trained on normalised observations"):
        model.to_sac("Pendulum-v1")
    with pytest.raises(ValueError, match="trained on raw observations"):
        raw.to_sac(wrapped())
    statistics = model.to_sac(wrapped()).get_vec_normalize_env().obs_rms
    np.testing.assert_allclose(statistics.mean, pendulum_arrays["observations"].mean(axis=0), atol=1e-3)


def test_to_sac_acts_within_the_datas_bounds_where_the_task_has_none(pendulum_arrays: Arrays) -> None:
    endless = TransformAction(gym.make("Pendulum-v1"), lambda action: action, spaces.Box(-np.inf, np.inf, (1,)))
    model = make(pendulum_arrays, env=endless).learn(1)
    sac = model.to_sac(endless, learning_starts=2).learn(4)
    assert sac.action_space == model.action_space
    assert sac.action_space.is_bounded()


def test_to_sac_of_an_algorithm_with_a_target_actor(pendulum_arrays: Arrays) -> None:
    options = FAST_MODEL_BASED | {"rollout_policy": "target", "ent_coef": 0.1}
    model = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **options).learn(2)
    sac = model.to_sac()
    expected, _ = model.predict(observations(), deterministic=True)
    np.testing.assert_array_equal(sac.predict(observations(), deterministic=True)[0], expected)
    assert float(sac.ent_coef_tensor) == pytest.approx(0.1)


def test_rollouts_keep_their_rate_in_updates(pendulum_arrays: Arrays) -> None:
    """300 updates of a rollout each 100: three, though the 300 environment steps come in bursts of 75."""
    model = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, **(FAST_MODEL_BASED | {"rollout_freq": 100})).learn(
        100
    )
    count, rollout = [], model.rollout_model
    model.rollout_model = lambda: (count.append(model._n_updates), rollout())  # type: ignore[method-assign,assignment,func-returns-value]
    model.learn_online(300, learning_starts=0, train_freq=75, gradient_steps=75)
    assert count == [100, 200, 300]


def test_an_episode_that_was_cut_has_no_return(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, calibrated=True).learn(2)
    model.learn_online(50, learning_starts=1000)
    model.learn_online(200, learning_starts=1000)
    returns = model.replay_buffer.returns[1000:]
    assert returns[:50].isneginf().all()
    rewards = model.replay_buffer.rewards[1050:1250]
    total = float((rewards * 0.99 ** th.arange(200)).sum()) / (1.0 - 0.99**200)  # a cut episode, as if it went on alike
    assert float(returns[50]) == pytest.approx(total, rel=1e-4)
