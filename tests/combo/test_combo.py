"""Batches of d_f, the conservative term's two expectations, and rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO
from tests.conftest import FAST_MODEL_BASED


def make(arrays: dict[str, np.ndarray], **options: Any) -> COMBO:
    return COMBO("MlpPolicy", env="Pendulum-v1", dataset=arrays, **(FAST_MODEL_BASED | options))


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
    fresh, _ = nets.sample(batch.observations[32:], noise.policy)
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
        ({"real_ratio": 1.0}, "real_ratio must lie strictly between 0 and 1"),
        ({"rollout_length": 0}, "rollout_length must be at least 1"),
        ({"rollout_policy": "old"}, "rollout_policy must be"),
        ({"dynamics_kwargs": {"n_member": 3}}, "n_members"),
        ({"dynamics_kwargs": {"n_members": 2, "n_elites": 3}}, "n_elites"),
    ],
)
def test_bad_options_are_refused(pendulum_arrays: dict[str, np.ndarray], options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(pendulum_arrays, **options)
