"""The parent's own options: the normalised critic rule, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_offline import COMBO, CQL, OfflineSAC, load_dataset
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.execution.optimizers import minimize, polyak
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, maker

make = maker(OfflineSAC, **FAST)


@pytest.mark.parametrize("semi_gradient", [False, True])
def test_normalized_td_step_by_autograd(pendulum_arrays: dict[str, np.ndarray], semi_gradient: bool) -> None:
    """w - lambda sum_j d_j e_j / (1 + d_j^T d_j)^2, with d_j from autograd, row by row."""
    options = {"critic_update": "normalized_td", "semi_gradient": semi_gradient, "qf_learning_rate": 0.5, "gamma": 0.9}
    model = make(pendulum_arrays, **options).learn(1)
    rows = model.sample_batch()
    batch = Batch(*(column[:5] for column in rows[:5]), n_real=5)
    noise = SACNoise(th.zeros(5, 1, 1), th.zeros(5, 1, 1))
    nets = model.networks()
    parameters = list(model.critic.q_networks[1].parameters())
    next_actions = nets.sample(batch.next_observations, noise.next_action)[0].detach()
    step = [th.zeros_like(p) for p in parameters]
    for j in range(5):
        q = nets.q(batch.observations[j : j + 1], batch.actions[j : j + 1, None])[1, 0, 0]
        q_next = nets.q(batch.next_observations[j : j + 1], next_actions[j : j + 1])[1, 0, 0]
        e = q - batch.rewards[j] - 0.9 * (1 - batch.dones[j]) * q_next
        d = th.autograd.grad(q if semi_gradient else e, parameters)
        norm = sum(float(g.square().sum()) for g in d)
        for total, g in zip(step, d, strict=True):
            total += g * e.detach() / (1 + norm) ** 2
    expected = [p.detach() - 0.5 * s for p, s in zip(parameters, step, strict=True)]
    model.normalized_td(nets, batch, noise)
    for actual, value in zip(parameters, expected, strict=True):
        th.testing.assert_close(actual.detach(), value, rtol=1e-3, atol=1e-5)


def test_normalized_td_belongs_to_the_parent(pendulum_arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(TypeError, match=r"CQL takes no 'critic_update': .* OfflineSAC has it"):
        CQL("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, critic_update="normalized_td")
    with pytest.raises(ValueError, match="semi_gradient"):
        make(pendulum_arrays, semi_gradient=True)
    with pytest.raises(ValueError, match="critic_update"):
        make(pendulum_arrays, critic_update="sgd")


@pytest.mark.parametrize("entropy_backup", [False, True])
def test_target_by_hand(pendulum_arrays: dict[str, np.ndarray], entropy_backup: bool) -> None:
    """y = r + gamma min Q'(s', a'), and - gamma alpha log pi with the entropy; a' is drawn, not the policy's mode."""
    model = make(pendulum_arrays, entropy_backup=entropy_backup, ent_coef=0.5, gamma=0.9).learn(1)
    batch = model.sample_batch()
    noise = model.draw_noise(batch)
    nets = model.networks()
    mean, log_std, _ = model.actor.get_action_dist_params(batch.next_observations)
    actions = th.tanh(mean + log_std.exp() * noise.next_action[:, 0])
    value = th.cat(model.critic_target(batch.next_observations, actions), dim=1).min(dim=1).values
    if entropy_backup:
        value = value - 0.5 * nets.log_prob(batch.next_observations, actions.unsqueeze(1))[:, 0]
    th.testing.assert_close(model.td_target(nets, batch, noise), (batch.rewards + 0.9 * value).detach(), rtol=1e-4, atol=1e-4)


def test_actor_loss_by_hand(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """E[alpha log pi - min Q] with alpha = 0.5: Q = (3, 1) and (5, 4) at two states, log pi = -2 and 6."""
    model = make(pendulum_arrays, ent_coef=0.5)
    batch = Batch(th.zeros(2, 3), th.zeros(2, 1), th.zeros(2, 3), th.zeros(2), th.zeros(2), n_real=2)
    nets = SimpleNamespace(
        sample=lambda _, noise: (noise, th.tensor([[-2.0], [6.0]])),
        q_frozen=lambda *_: th.tensor([[[3.0], [5.0]], [[1.0], [4.0]]]),  # (n_critics, B, 1)
    )
    loss, log_prob, logs = model.actor_loss(nets, batch, SACNoise(th.zeros(2, 1, 1), th.zeros(2, 1, 1)))  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(((0.5 * -2 - 1) + (0.5 * 6 - 4)) / 2)
    assert log_prob.tolist() == [-2.0, 6.0]
    assert float(logs["entropy"]) == pytest.approx(-2.0)


@pytest.mark.parametrize(("target_entropy", "rises"), [(100.0, True), (-100.0, False)])
def test_temperature_rises_below_the_target_entropy(
    pendulum_arrays: dict[str, np.ndarray], target_entropy: float, rises: bool
) -> None:
    model = make(pendulum_arrays, target_entropy=target_entropy, ent_coef="auto_0.5", learning_rate=0.01).learn(1)
    assert (model.log_ent_coef.item() > np.log(0.5)) == rises
    assert abs(model.log_ent_coef.item() - np.log(0.5)) == pytest.approx(0.01, rel=1e-3)  # Adam's first step


def test_target_entropy_is_minus_the_number_of_actions(pendulum_arrays: dict[str, np.ndarray]) -> None:
    arrays = pendulum_arrays | {"actions": np.tile(pendulum_arrays["actions"], (1, 3)) / 2}
    spaces_of = {"observation_space": gym.spaces.Box(-10, 10, (3,)), "action_space": gym.spaces.Box(-1, 1, (3,))}
    model = OfflineSAC("MlpPolicy", dataset=load_dataset(arrays, **spaces_of), **FAST)
    assert model.target_entropy == -3.0


def test_normalized_td_has_a_rate_of_its_own(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """8/M (.125 for 64), the bound of the linear theory, not Adam's 3e-4."""
    normalized = make(pendulum_arrays, critic_update="normalized_td", batch_size=64)
    assert normalized.qf_learning_rate == 8 / 64
    assert make(pendulum_arrays, batch_size=64).qf_learning_rate == 3e-4
    assert make(pendulum_arrays, critic_update="normalized_td", qf_learning_rate=0.5).qf_learning_rate == 0.5
    assert make(pendulum_arrays, critic_update="normalized_td", batch_size=128).qf_learning_rate == 8 / 128


def test_normalized_td_pays_the_entropy_too(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """Its residual is Q - r - gamma (Q' - alpha log pi), each critic with its own Q'."""
    model = make(pendulum_arrays, critic_update="normalized_td", entropy_backup=True, ent_coef=0.5, gamma=0.9).learn(1)
    batch = model.sample_batch()
    noise, nets = model.draw_noise(batch), model.networks()
    with th.no_grad():
        q = nets.q(batch.observations, batch.actions.unsqueeze(1))[..., 0]
        actions, log_prob = nets.sample(batch.next_observations, noise.next_action)
        following = nets.q(batch.next_observations, actions)[..., 0] - 0.5 * log_prob[:, 0]
        expected = (q - batch.rewards - 0.9 * (1 - batch.dones) * following).square().mean()
    assert float(model.normalized_td(nets, batch, noise)["critic_loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_actions_are_one_row_of_numbers(pendulum_arrays: dict[str, np.ndarray]) -> None:
    env = DummyVecEnv([lambda: Spaces((3,), (2, 2))])
    with pytest.raises(
        ValueError, match=r"OfflineSAC takes actions of shape \(n,\); this task's have shape \(2, 2\)\. .*\(4,\)"
    ):
        OfflineSAC("MlpPolicy", env, dataset=pendulum_arrays, **FAST)
    env = DummyVecEnv([lambda: Spaces((3, 2), (1,))])
    with pytest.raises(ValueError, match=r"COMBO takes observations of shape \(n,\), not \(3, 2\): .*FlattenObservation"):
        COMBO("MlpPolicy", env, dataset=pendulum_arrays, **FAST)


class Spaces(gym.Env[Any, Any]):
    """An env of these shapes that is never stepped."""

    def __init__(self, observation: tuple[int, ...], action: tuple[int, ...]):
        self.observation_space = gym.spaces.Box(-1, 1, observation)
        self.action_space = gym.spaces.Box(-1, 1, action)


def test_polyak() -> None:
    """theta' <- tau theta + (1 - tau) theta'."""
    source, target = th.nn.Linear(1, 1), th.nn.Linear(1, 1)
    source.weight.data.fill_(1.0)
    target.weight.data.fill_(3.0)
    polyak(source, target, 0.25)
    assert target.weight.item() == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert source.weight.item() == 1.0


def test_minimize_touches_its_own_parameters_only() -> None:
    actor, critic = th.nn.Parameter(th.tensor(2.0)), th.nn.Parameter(th.tensor(3.0))
    minimize(actor * critic, th.optim.SGD([actor], lr=0.1))
    assert actor.item() == pytest.approx(2.0 - 0.1 * 3.0)
    assert critic.item() == 3.0
    assert critic.grad is None
