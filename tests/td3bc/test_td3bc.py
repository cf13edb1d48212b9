"""TD3+BC: its loss by hand, its two ends (regression and TD3), and how observations are standardised."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import TD3BC
from sb3_offline.common.offline_td3 import OfflineTD3
from sb3_offline.networks.networks import Batch
from tests.conftest import FAST, Arrays, maker

make = maker(TD3BC, **FAST, check_data=False)


def test_the_actors_loss_by_hand(pendulum_arrays: Arrays) -> None:
    """Q = (1, -3): mean|Q| = 2, lambda = 2.5 / 2 = 1.25, -lambda mean Q = 1.25; squares .25 and .25, their mean .25."""
    model = make(pendulum_arrays, alpha=2.5)
    mu = th.tensor([[[0.5]], [[-0.5]]])
    q = th.tensor([[1.0], [-3.0]])
    nets: Any = SimpleNamespace(action=lambda _: mu, q1_frozen=lambda *_: q)
    batch = Batch(None, th.tensor([[1.0], [0.0]]), None, th.zeros(2), th.zeros(2), 2)
    loss, logs = model.actor_loss(nets, batch, None)
    assert (float(loss), float(logs["q_weight"]), float(logs["imitation_loss"])) == pytest.approx((1.5, 1.25, 0.25))


def test_the_actors_loss_normalised_by_the_gradient(pendulum_arrays: Arrays) -> None:
    """
    Q = (3 a, a) + 100: its gradients in the action are 3 and 1, their mean length 2, lambda = .5 / 2 = .25. The loss descends
    by -.25 (3, 1) / 2 + 2 (mu - a) / 2 = (-.375, -.125) + (-.5, -.5), whatever is added to Q.
    """
    model = make(pendulum_arrays, alpha=0.5, normalize_by="gradient")
    mu = th.tensor([[[0.5]], [[-0.5]]], requires_grad=True)
    nets: Any = SimpleNamespace(action=lambda _: mu, q1_slope=lambda *_: th.tensor([[[3.0]], [[1.0]]]))
    batch = Batch(None, th.tensor([[1.0], [0.0]]), None, th.zeros(2), th.zeros(2), 2)
    loss, logs = model.actor_loss(nets, batch, None)
    assert (float(logs["q_weight"]), float(logs["imitation_loss"])) == pytest.approx((0.25, 0.25))
    th.testing.assert_close(th.autograd.grad(loss, mu)[0].flatten(), th.tensor([-0.875, -0.625]))


def test_the_first_critic_alone(pendulum_arrays: Arrays) -> None:
    """What all critics say, first of them: Q and its slope in the actions."""
    model = make(pendulum_arrays).learn(3)
    nets, batch = model.networks(), model.sample_batch()
    found = []
    for first in (nets.q1_frozen, lambda *args: nets.q_frozen(*args)[0]):
        actions = batch.actions.unsqueeze(1).clone().requires_grad_()
        q = first(batch.observations, actions)
        found.append((q.detach(), *th.autograd.grad(q.sum(), actions)))
    th.testing.assert_close(*found)
    th.testing.assert_close(nets.q1_slope(batch.observations, batch.actions.unsqueeze(1)), found[0][1])
    assert found[0][0].shape == (len(batch.rewards), 1)
    assert found[0][1].abs().sum() > 0


def gradient(model: Any, batch: Batch) -> th.Tensor:
    loss, _ = model.actor_loss(model.networks(), batch, None)
    return th.cat([part.flatten() for part in th.autograd.grad(loss, list(model.actor.parameters()))])


@pytest.mark.parametrize("normalize_by", ["value", "gradient"])
def test_between_regression_and_td3(normalize_by: Any, pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, normalize_by=normalize_by).learn(3)
    batch = model.sample_batch()
    mean_squares = (model.actor(batch.observations) - batch.actions).square().mean()
    regression = th.cat([part.flatten() for part in th.autograd.grad(mean_squares, list(model.actor.parameters()))])
    loss, _ = OfflineTD3.actor_loss(model, model.networks(), batch, None)  # type: ignore[arg-type]
    td3 = th.cat([part.flatten() for part in th.autograd.grad(loss, list(model.actor.parameters()))])
    model.alpha = 0.0
    th.testing.assert_close(gradient(model, batch), regression)
    model.alpha = 1e6
    assert float(th.cosine_similarity(gradient(model, batch), td3, dim=0)) > 0.99999
    assert float(th.cosine_similarity(regression, td3, dim=0)) < 0.99


def test_the_critics_loss_has_no_half(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(1)
    batch = model.sample_batch()
    nets, noise = model.networks(), model.draw_noise(batch)
    loss, _ = model.critic_loss(nets, batch, noise)
    y = model.td_target(nets, batch, noise).unsqueeze(1)
    q = model.critic(batch.observations, batch.actions)
    th.testing.assert_close(loss, sum(((values - y) ** 2).mean() for values in q))


def test_observations_are_standardised_by_the_data(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(1)
    rows = pendulum_arrays["observations"].astype(np.float64)
    for network in (model.actor, model.actor_target, model.critic, model.critic_target):
        np.testing.assert_allclose(network.features_extractor.mean, rows.mean(axis=0), atol=1e-4)
        np.testing.assert_allclose(network.features_extractor.std, rows.std(axis=0), rtol=1e-4)
    plain = make(pendulum_arrays, policy_kwargs={"net_arch": [8], "normalize_observations": False}).learn(1)
    assert not hasattr(plain.actor.features_extractor, "mean")
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    assert not hasattr(make(pendulum_arrays, env=env).learn(1).actor.features_extractor, "mean")  # not twice


def test_it_goes_on_online(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays).learn(5)
    model.learn_online(30, learning_starts=10)
    assert model._n_updates == 5 + 20


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), "x"])
def test_a_weight_that_cannot_be_is_refused(alpha: Any, pendulum_arrays: Arrays) -> None:
    with pytest.raises((TypeError, ValueError), match="alpha must"):
        make(pendulum_arrays, alpha=alpha)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, ("gradient", 0.15)),
        ({"alpha": 2.5}, ("value", 2.5)),  # the paper's, as others' code and zoo files give it
        ({"normalize_by": "value"}, ("value", 5.0)),
        ({"normalize_by": "gradient", "alpha": 0.0}, ("gradient", 0.0)),
    ],
)
def test_an_alpha_alone_counts_as_the_papers(given: Any, taken: Any, pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(pendulum_arrays, **given)
    assert (model.normalize_by, model.alpha) == taken
    model.save(tmp_path / "model")
    loaded = TD3BC.load(tmp_path / "model")
    assert (loaded.normalize_by, loaded.alpha) == taken


def test_a_scale_that_is_none_is_refused(pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match="normalize_by must be one of value, gradient, got 'Q'"):
        make(pendulum_arrays, normalize_by="Q")
