"""Batches of d_f, the conservative term's two expectations, and rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO
from tests.conftest import EQ_8, FAST_MODEL_BASED, maker

make = maker(COMBO, **FAST_MODEL_BASED, **EQ_8)


@pytest.mark.parametrize(("real_ratio", "n_real"), [(0.5, 32), (0.05, 3), (0.8, 51), (0.999, 63), (0.001, 1)])
def test_batch_has_f_real_rows_first(pendulum_arrays: dict[str, np.ndarray], real_ratio: float, n_real: int) -> None:
    model = make(pendulum_arrays, real_ratio=real_ratio).learn(1)
    batch = model.sample_batch()
    assert batch.n_real == n_real
    assert len(batch.rewards) == 64
    logged = th.isin(batch.rewards, model.replay_buffer.rewards)
    assert logged[:n_real].all()
    assert not logged[n_real:].any()


def test_gap_is_model_states_minus_real_data(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """E_rho over imagined states with fresh actions, E_D over the real rows alone, never over the mixed batch."""
    model = make(pendulum_arrays, conservative_weight=3.0).learn(1)
    batch = model.sample_batch()
    noise = model.draw_noise(batch)
    nets = model.networks()
    asked = {}

    def q(observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        asked["observations"], asked["actions"] = observations, actions
        return th.full((2, *actions.shape[:2]), 5.0)

    nets.q = q  # type: ignore[method-assign]
    data_q = th.cat([th.full((2, 32), 2.0), th.full((2, 32), 1000.0)], dim=1)
    penalty, logs = model.critic_penalty(nets, batch, noise, data_q)
    assert th.equal(asked["observations"], batch.observations[32:])
    fresh, _ = nets.sample(batch.observations[32:], noise.terms["conservative"].policy)
    assert th.equal(asked["actions"], fresh)
    assert float(logs["conservative_gap"]) == pytest.approx(3.0)
    assert float(penalty) == pytest.approx(2 * 3.0 * 3.0)


def test_conservative_term_reaches_the_critic(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays).learn(1)
    nets, batch = model.networks(), model.sample_batch()
    q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1).detach()
    penalty, _ = model.critic_penalty(nets, batch, model.draw_noise(batch), q)
    gradients = th.autograd.grad(penalty, list(model.critic.parameters()))
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)


@pytest.mark.parametrize("rollout_policy", ["current", "target", "uniform"])
def test_rollouts_fill_and_rotate(pendulum_arrays: dict[str, np.ndarray], rollout_policy: str) -> None:
    model = make(pendulum_arrays, rollout_policy=rollout_policy, rollout_length=2, rollout_retain=2, rollout_freq=1)
    model.learn(1)
    assert model.model_buffer.size() == 512  # Pendulum never ends: 256 rollouts of 2 steps
    first = model.model_buffer.observations[:256].clone()
    assert not th.equal(first[0], first[1])  # not one row repeated
    data = model.replay_buffer.observations  # type: ignore[union-attr]
    assert all(bool((data == row).all(dim=1).any()) for row in first[:20])  # rollouts start in the data
    model.learn(2, reset_num_timesteps=True)
    assert model.model_buffer.size() == 1024
    assert not th.equal(first, model.model_buffer.observations[:256])
    assert float(model.model_buffer.actions.abs().max()) <= 1.0
    assert float(model.model_buffer.actions.abs().max()) > 0.5


def test_target_actor_follows_the_actor(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """theta' <- tau theta + (1 - tau) theta'."""
    model = make(pendulum_arrays, rollout_policy="target", tau=0.25)
    before = [p.clone() for p in model.policy.actor_target.parameters()]
    assert all(th.equal(a, b) for a, b in zip(before, model.actor.parameters(), strict=True))
    model.learn(1)
    for old, new, source in zip(before, model.policy.actor_target.parameters(), model.actor.parameters(), strict=True):
        th.testing.assert_close(new.data, 0.25 * source.data + 0.75 * old)


@pytest.mark.parametrize("rollout_policy", ["current", "target"])
def test_rollouts_are_by_the_policy_that_was_named(pendulum_arrays: dict[str, np.ndarray], rollout_policy: str) -> None:
    """After some updates, when the two policies differ; Pendulum's torque lies in [-2, 2]."""
    model = make(pendulum_arrays, rollout_policy=rollout_policy, tau=0.01).learn(20)
    observations = th.as_tensor(pendulum_arrays["observations"][:50])
    acting = model.rollout_actor(th.Generator().manual_seed(1))(observations)
    normals = th.randn(50, 1, 1, generator=th.Generator().manual_seed(1))[:, 0]
    named = model.actor_target if rollout_policy == "target" else model.actor
    expected, learned = (
        2 * th.tanh(mean + log_std.exp() * normals)
        for mean, log_std, _ in (actor.get_action_dist_params(observations) for actor in (named, model.actor))
    )
    if rollout_policy == "target":
        assert float((expected - learned).abs().max()) > 1e-3
    th.testing.assert_close(acting, expected, rtol=1e-4, atol=1e-5)


def test_dynamics_are_fitted_once(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays)
    assert not bool(model.dynamics.fitted)
    model.fit_dynamics()
    weights = [p.clone() for p in model.dynamics.parameters()]
    model.learn(2)
    assert model.num_timesteps == 2
    assert all(th.equal(a, b) for a, b in zip(weights, model.dynamics.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_ratio": 1.0}, "real_ratio must lie in \\(0, 1\\)"),
        ({"rollout_length": 0}, "rollout_length must be at least 1"),
        ({"rollout_policy": "old"}, "rollout_policy must be"),
        ({"dynamics_kwargs": {"n_member": 3}}, "n_members"),
        ({"dynamics_kwargs": {"n_members": 2, "n_elites": 3}}, "n_elites"),
    ],
)
def test_bad_options_are_refused(pendulum_arrays: dict[str, np.ndarray], options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(pendulum_arrays, **options)


@pytest.mark.parametrize(("penalty_states", "expected"), [("model", 5.0), ("mix", 3.5)])
def test_penalty_states_by_hand(pendulum_arrays: dict[str, np.ndarray], penalty_states: str, expected: float) -> None:
    """Q = 2 at data's states and 5 at imagined ones, half of each: E_rho Q is 5 or 3.5, E_D Q stays that of real rows."""
    model = make(pendulum_arrays, conservative_weight=1.0, penalty_states=penalty_states).learn(1)
    batch = model.sample_batch()
    batch = batch._replace(observations=th.cat([th.full((32, 3), 2.0), th.full((32, 3), 5.0)]))
    nets = model.networks()
    nets.q = lambda observations, actions: observations[:, :1].expand(2, -1, actions.shape[1])  # type: ignore[method-assign]
    data_q = th.cat([th.full((2, 32), 1.0), th.full((2, 32), 1000.0)], dim=1)
    noise = model.draw_noise(batch)
    assert len(noise.terms["conservative"].policy) == {"model": 32, "mix": 64}[penalty_states]
    penalty, logs = model.critic_penalty(nets, batch, noise, data_q)
    assert float(logs["q_policy"]) == pytest.approx(expected)
    assert float(penalty) == pytest.approx(2 * (expected - 1.0))


def test_lagrange_weight_follows_the_gap_and_comes_back(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """E_rho Q - E_D Q above the target raises beta, up to 1e3, where it does not stick."""
    model = make(pendulum_arrays, target_gap=1.0).learn(1)
    start = float(model.terms[0].weight())
    model.after_critic_step({"conservative_gap": th.tensor(3.0)})
    assert float(model.terms[0].weight()) > start
    log_weight = model.log_conservative_weight
    assert log_weight is not None
    log_weight.data.fill_(np.log(999.0))
    for _ in range(50):
        model.after_critic_step({"conservative_gap": th.tensor(3.0)})
    assert float(model.terms[0].weight()) == pytest.approx(1e3)
    assert float(log_weight.detach()) == pytest.approx(np.log(1e3))
    for _ in range(30):
        model.after_critic_step({"conservative_gap": th.tensor(-3.0)})
    assert float(model.terms[0].weight()) < 999.0


def test_bound_on_q(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """(R_max + beta max(1/f, 1/(1-f))) / (1-gamma) with R_max = 2, beta = 3, f = .2, gamma = .5: 34."""
    model = make(pendulum_arrays, conservative_weight=3.0, real_ratio=0.2, gamma=0.5).learn(1)
    model.max_reward = th.tensor(2.0)
    batch = model.sample_batch()
    q = th.tensor([33.9, -33.9, 34.1, -34.1]).repeat(2, 16)
    _, logs = model.critic_penalty(model.networks(), batch, model.draw_noise(batch), q)
    assert float(logs["q_beyond_bound"]) == 0.5
