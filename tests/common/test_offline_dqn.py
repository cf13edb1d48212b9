"""DQN on logged data: the loss by hand, what is refused, and that it lives in SB3 as DQN does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import CQL, DiscreteCQL, OfflineEvalCallback, load_dataset
from sb3_offline.buffers.buffers import OfflineDatasetBuffer
from sb3_offline.common.offline_dqn import OfflineDQN, one_hot
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays, maker

make = maker(OfflineDQN, "CartPole-v1", **FAST)


class Table:
    """Two states, three actions: Q and Q' are given, pi is greedy in Q."""

    table = th.tensor([[[1.0, 5.0, 3.0], [4.0, 0.0, 4.5]]])
    target = th.tensor([[[10.0, 20.0, 90.0], [30.0, 80.0, 40.0]]])

    def q(self, observations: th.Tensor) -> th.Tensor:
        return self.table[:, observations[:, 0].long()]

    def q_target(self, observations: th.Tensor) -> th.Tensor:
        return self.target[:, observations[:, 0].long()]

    def policy(self, observations: th.Tensor) -> th.Tensor:
        return one_hot(self.q(observations)[0].argmax(1), 3)


def batch() -> Batch:
    """(s, a, r, s', done): (0, 2, 1, 1, no), (1, 0, 2, 0, no), (0, 1, 3, 1, yes)."""
    return Batch(
        observations=th.tensor([[0.0], [1.0], [0.0]]),
        actions=th.tensor([[2], [0], [1]]),
        next_observations=th.tensor([[1.0], [0.0], [1.0]]),
        rewards=th.tensor([1.0, 2.0, 3.0]),
        dones=th.tensor([0.0, 0.0, 1.0]),
        n_real=3,
    )


def test_online_is_for_sb3(cartpole_arrays: Arrays, tmp_path: Path) -> None:
    """What the refusal of learn_online names does go on."""
    model = make(cartpole_arrays).learn(2)
    with pytest.raises(NotImplementedError, match=r"DQN\.load\(path, env=env, buffer_size=100_000, learning_starts=1000"):
        model.learn_online(10)
    model.save(tmp_path / "model")
    options = {"buffer_size": 100_000, "learning_starts": 1000, "exploration_initial_eps": 0.05}
    online = DQN.load(tmp_path / "model", env=gym.make("CartPole-v1"), device="cpu", **options).learn(1100)
    assert online.replay_buffer is not None
    assert online.replay_buffer.size() == 1100
    assert not th.equal(online.q_net.q_net[0].weight, model.q_net.q_net[0].weight)


def test_what_dqn_cannot_load_goes_on_by_its_networks(cartpole_arrays: Arrays) -> None:
    """A learned weight lies in the file, which DQN.load refuses: the refusal of learn_online names another way."""
    model = DiscreteCQL("MlpPolicy", "CartPole-v1", cartpole_arrays, target_gap=1.0, **FAST).learn(2)
    with pytest.raises(NotImplementedError, match=r"DQN\(model\.policy_class, env, policy_kwargs.*load_state_dict"):
        model.learn_online(10)
    dqn = DQN(model.policy_class, gym.make("CartPole-v1"), policy_kwargs=model.policy_kwargs, device="cpu")
    dqn.policy.load_state_dict(model.policy.state_dict())
    rows = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(dqn.predict(rows, deterministic=True)[0], model.predict(rows, deterministic=True)[0])


def test_the_online_network_chooses_and_the_target_network_judges(cartpole_arrays: Arrays) -> None:
    """argmax Q is action 2 at state 1 and action 1 at state 0: neither is the largest of Q'."""
    target = make(cartpole_arrays, gamma=0.5).td_target(Table(), batch())
    assert target.tolist() == [1 + 0.5 * 40, 2 + 0.5 * 20, 3.0]


def test_loss_by_hand(cartpole_arrays: Arrays) -> None:
    """1/2 mean (Q - y)^2 with Q = (3, 4, 5) and y = (21, 12, 3)."""
    loss, logs = make(cartpole_arrays, gamma=0.5).critic_loss(Table(), batch())
    assert float(loss) == pytest.approx(0.5 * (18**2 + 8**2 + 2**2) / 3)
    assert float(logs["q_data"]) == pytest.approx(4.0)


def test_the_target_network_moves_by_tau(cartpole_arrays: Arrays) -> None:
    model = make(cartpole_arrays, tau=0.25, learning_rate=1e-2).learn(1)
    before = [p.clone() for p in model.q_net_target.parameters()]
    model.update()
    for old, new, online in zip(before, model.q_net_target.parameters(), model.q_net.parameters(), strict=True):
        th.testing.assert_close(new, 0.75 * old + 0.25 * online)


def test_learns_the_reward(cartpole_arrays: Arrays) -> None:
    """Without a future Q(s, a) is the reward, 1 everywhere."""
    model = make(cartpole_arrays, gamma=0.0, learning_rate=1e-2).learn(200)
    with th.no_grad():
        q = model.networks().q(th.as_tensor(cartpole_arrays["observations"]))
    np.testing.assert_allclose(q.numpy(), 1.0, atol=0.1)


def test_target_is_copied_at_its_interval(cartpole_arrays: Arrays) -> None:
    """DQN's own form: tau = 1 every few steps."""
    model = make(cartpole_arrays, tau=1.0, target_update_interval=3).learn(2)
    online, target = model.q_net.q_net[0].weight, model.q_net_target.q_net[0].weight
    assert not th.equal(online, target)
    model.learn(1, reset_num_timesteps=False)
    assert th.equal(online, target)


def test_actions_of_the_buffer(cartpole_arrays: Arrays) -> None:
    """Whole numbers in a column, as in SB3's own buffers."""
    dataset = load_dataset(cartpole_arrays, env_id="CartPole-v1")
    buffer = OfflineDatasetBuffer(1, dataset.observation_space, dataset.action_space, "cpu")
    buffer.load(dataset)
    assert buffer.actions.dtype == th.int64
    assert buffer.actions[:, 0].tolist() == cartpole_arrays["actions"].tolist()


def test_save_load_predict_and_continue(cartpole_arrays: Arrays, tmp_path: Path) -> None:
    observations = cartpole_arrays["observations"][:20]
    for options in ({"target_gap": 0.5}, {"conservative_weight": 0.1}):
        model = make(cartpole_arrays, DiscreteCQL, **options).learn(10)
        assert isinstance(model, DQN)
        model.save(tmp_path / "model")
        loaded = DiscreteCQL.load(tmp_path / "model", device="cpu")
        expected = model.predict(observations, deterministic=True)[0]
        assert set(expected.tolist()) <= {0, 1}
        np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
        np.testing.assert_array_equal(loaded.predict(observations)[0], expected)  # nothing is explored
        assert th.equal(loaded.terms[0].weight(), model.terms[0].weight())
        loaded.dataset = cartpole_arrays
        loaded.learn(5, reset_num_timesteps=False)
        assert loaded.num_timesteps == 15
        assert not th.equal(loaded.q_net.q_net[0].weight, model.q_net.q_net[0].weight)


def test_same_seed_same_weights(cartpole_arrays: Arrays) -> None:
    def weights(seed: int) -> th.Tensor:
        return make(cartpole_arrays, DiscreteCQL, seed=seed).learn(20).q_net.q_net[0].weight

    first = weights(3)
    th.rand(5)
    assert th.equal(first, weights(3))
    assert not th.equal(first, weights(4))


def test_evaluation_and_normalised_observations(cartpole_arrays: Arrays) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]), norm_reward=False)
    model = DiscreteCQL("MlpPolicy", env, cartpole_arrays, **FAST)
    score = OfflineEvalCallback(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]), n_eval_episodes=2, eval_freq=5)
    DiscreteCQL("MlpPolicy", "CartPole-v1", cartpole_arrays, **FAST).learn(5, callback=score)
    assert score.last_mean_reward > 5
    model.learn(5)
    raw = th.as_tensor(cartpole_arrays["observations"][:3])
    seen = th.as_tensor(env.normalize_obs(raw.numpy()))
    th.testing.assert_close(model.networks().q(raw)[0], model.q_net(seen.float()))
    np.testing.assert_allclose(env.obs_rms.mean, cartpole_arrays["observations"].mean(axis=0), atol=1e-5)


def test_a_task_of_other_actions_names_the_algorithms_for_it(cartpole_arrays: Arrays, pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match=r"CQL needs actions in a Box space.*DiscreteCQL"):
        CQL("MlpPolicy", "CartPole-v1", cartpole_arrays, n_action_samples=4)
    with pytest.raises(ValueError, match=r"DiscreteCQL needs actions in a Discrete space.*\bCQL"):
        DiscreteCQL("MlpPolicy", "Pendulum-v1", pendulum_arrays)


def test_actions_that_do_not_start_at_zero_are_given_back_as_they_are() -> None:
    ends = np.arange(1, 5) % 2 == 0
    arrays = {
        "observations": np.zeros((4, 1)),
        "actions": np.array([1, 2, 1, 2]),
        "rewards": np.zeros(4),
        "next_observations": np.zeros((4, 1)),
        "terminations": ends,
        "truncations": np.zeros(4, bool),
    }
    data = load_dataset(arrays, observation_space=spaces.Box(-1, 1, (1,)), action_space=spaces.Discrete(2, start=1))
    model = DiscreteCQL("MlpPolicy", dataset=data).learn(1)
    assert model.replay_buffer.actions.flatten().tolist() == [0, 1, 0, 1]
    assert model.predict(np.zeros((1, 1), np.float32))[0] in (1, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_action_samples": 4}, TypeError, "sums over discrete actions are exact"),
        ({"ent_coef": "auto"}, TypeError, "no entropy is rewarded"),
        ({"qf_learning_rate": 1e-3}, TypeError, "learning_rate is its rate"),
        ({"exploration_fraction": 0.1}, TypeError, "nothing is explored"),
        ({"conservative_wieght": 1.0}, TypeError, "Did you mean 'conservative_weight'"),
        ({"conservative_weight": 1.0, "target_gap": 1.0}, ValueError, "not both"),
        ({"gamma": 1.0}, ValueError, r"gamma must lie in \[0, 1\)"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be a schedule, or a number"),
        ({"batch_size": 1}, ValueError, "batch_size"),
        ({"target_update_interval": 0}, ValueError, "target_update_interval"),
    ],
)
def test_bad_options_are_refused(
    cartpole_arrays: Arrays, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(cartpole_arrays, DiscreteCQL, **options)
