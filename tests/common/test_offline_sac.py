"""The parent's own options: the normalised critic rule, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import CQL, OfflineSAC
from sb3_offline.common.networks import Batch
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.common.optimizers import minimize, polyak
from tests.conftest import FAST


def make(arrays: dict[str, np.ndarray], **options: Any) -> OfflineSAC:
    return OfflineSAC("MlpPolicy", env="Pendulum-v1", dataset=arrays, **(FAST | options))


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
    with pytest.raises(ValueError, match="OfflineSAC"):
        CQL("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, critic_update="normalized_td")
    with pytest.raises(ValueError, match="semi_gradient"):
        make(pendulum_arrays, semi_gradient=True)
    with pytest.raises(ValueError, match="critic_update"):
        make(pendulum_arrays, critic_update="sgd")


def test_entropy_backup_by_hand(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """y = r + gamma (min Q' - alpha log pi)."""
    model = make(pendulum_arrays, entropy_backup=True, ent_coef=0.5, gamma=0.9).learn(1)
    batch = model.sample_batch()
    noise = model.draw_noise(batch)
    nets = model.networks()
    actions, log_prob = nets.sample(batch.next_observations, noise.next_action)
    value = nets.q_target(batch.next_observations, actions).min(dim=0).values[:, 0]
    expected = batch.rewards + 0.9 * (value - 0.5 * log_prob[:, 0])
    th.testing.assert_close(model.td_target(nets, batch, noise), expected.detach())


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
