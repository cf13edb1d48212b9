"""DROMO's term, and its difference from COMBO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO, DROMO
from sb3_offline.behavior.behavior_policy import BehaviorNoise
from sb3_offline.dromo.robust_term import RobustNoise
from sb3_offline.dromo.robustness import Std, drawn_states, stratified_variance
from tests.conftest import FAST_DROMO, FAST_MODEL_BASED, maker

make = maker(DROMO, **FAST_DROMO)
make_combo = maker(COMBO, **FAST_MODEL_BASED)


def test_variance_estimator_by_hand() -> None:
    """b = (1, 3), p = (0, 0, 3), f = 1/2: plug-in 1.75, unbiased 2.25."""
    value = stratified_variance(th.tensor([1.0, 3.0]), th.tensor([0.0, 0.0, 3.0]), 0.5)
    assert float(value) == pytest.approx(2.25, abs=1e-6)


def test_variance_estimator_is_unbiased() -> None:
    """Against f v_b + (1-f) v_p + f (1-f) (m_b - m_p)^2 with b ~ N(1, 2^2), p ~ N(-1, 1), f = .3."""
    generator = th.Generator().manual_seed(0)
    b = 1 + 2 * th.randn(200_000, 3, generator=generator)
    p = -1 + th.randn(200_000, 4, generator=generator)
    expected = 0.3 * 4 + 0.7 * 1 + 0.3 * 0.7 * 4
    estimates = stratified_variance(b, p, 0.3)
    assert float(estimates.mean()) == pytest.approx(expected, abs=0.02)
    assert float(estimates.min()) >= 0


def test_variance_is_exact_far_from_zero() -> None:
    """No cancellation at Q about -1e4 in float32."""
    value = stratified_variance(th.tensor([1.0, 3.0]) - 1e4, th.tensor([0.0, 0.0, 3.0]) - 1e4, 0.5)
    assert float(value) == pytest.approx(2.25, rel=1e-3)


def test_equal_q_has_zero_gradient(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """At equal Q of all actions the root's gradient is 0, not NaN."""
    model = make(pendulum_arrays, conservative_weight=0.0, robust_weight=1.0).learn(1)
    with th.no_grad():
        for network in model.critic.q_networks:
            for parameter in network.parameters():
                parameter.zero_()
    batch = model.sample_batch()
    noise = model.draw_noise(batch)
    nets = model.networks()
    q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
    penalty, _ = model.critic_penalty(nets, batch, noise, q)
    penalty.backward()
    for parameter in model.critic.parameters():
        assert parameter.grad is None or th.isfinite(parameter.grad).all()


@pytest.mark.parametrize("rollout_policy", ["current", "target"])
def test_zero_robust_weight_is_combo_to_the_bit(pendulum_arrays: dict[str, np.ndarray], rollout_policy: str) -> None:
    dromo = make(pendulum_arrays, robust_weight=0.0, rollout_policy=rollout_policy).learn(60)
    combo = make_combo(pendulum_arrays, n_action_samples=4, rollout_policy=rollout_policy).learn(60)
    for (name, ours), theirs in zip(dromo.policy.state_dict().items(), combo.policy.state_dict().values(), strict=True):
        assert th.equal(ours, theirs), name
    for ours, theirs in zip(dromo.dynamics.parameters(), combo.dynamics.parameters(), strict=True):
        assert th.equal(ours, theirs)


def test_robust_weight_changes_the_critic_but_no_other_stream(pendulum_arrays: dict[str, np.ndarray]) -> None:
    with_term = make(pendulum_arrays, robust_weight=0.5).learn(3)
    without = make(pendulum_arrays, robust_weight=0.0).learn(3)
    assert th.equal(with_term.model_buffer.observations[:5], without.model_buffer.observations[:5])
    assert th.equal(with_term.sample_batch().rewards, without.sample_batch().rewards)
    assert not th.equal(with_term.critic.q_networks[0][0].weight, without.critic.q_networks[0][0].weight)


@pytest.mark.parametrize("seed", [0, None])
def test_counts_of_states_survive_a_file(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path, seed: int | None) -> None:
    """A loaded model that learns on keeps its cells: n(s) would otherwise be dealt anew in the middle of training."""
    model = make(pendulum_arrays, seed=seed).learn(3)
    observations = model.replay_buffer.observations[:200]
    before = model.visitation(observations)
    model.save(tmp_path / "dromo")
    loaded = DROMO.load(tmp_path / "dromo", device="cpu")
    loaded.dataset = pendulum_arrays
    loaded.learn(2, reset_num_timesteps=False)
    assert len(before.unique()) > 5
    assert th.equal(loaded.visitation(observations), before)


def test_svpg_needs_a_row_for_each_particle(pendulum_arrays: dict[str, np.ndarray]) -> None:
    options: dict[str, Any] = {"actor_regularizer": {"kind": "svpg", "n_particles": 8}}
    with pytest.raises(ValueError, match=r"n_particles=8 needs at least as many rows of a batch.* has 4 with batch_size=4"):
        make(pendulum_arrays, batch_size=4, **options)
    options["robustness"] = {"kind": "std", "n_actions": 8}
    assert np.isfinite(make(pendulum_arrays, batch_size=8, **options).learn(2).log_sums.mean("actor_loss"))


def test_penalty_by_hand(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """alpha mean_s sqrt(v(s)/n(s)), summed over the critics, with Q linear in the action and n(s) = 4 everywhere."""
    model = make(pendulum_arrays, conservative_weight=0.0, robust_weight=2.0).learn(1)
    batch = model.sample_batch()
    noise = model.draw_noise(batch)
    nets = model.networks()
    seen = {}

    def q(_: th.Tensor, actions: th.Tensor) -> th.Tensor:
        seen["actions"] = actions
        values = 3.0 * actions[..., 0]
        return th.stack([values, 2.0 * values])

    nets.q = q
    nets.visits = lambda observations: th.full((len(observations),), 4.0)
    data_q = q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
    penalty, logs = model.critic_penalty(nets, batch, noise, data_q)
    actions = seen["actions"][..., 0]
    assert actions.shape == (64, 8)  # N_b = N_p = 4
    total = 0.0
    for row in actions.tolist():
        b, p = np.array(row[:4]), np.array(row[4:])
        f = model.real_ratio
        mean = f * b.mean() + (1 - f) * p.mean()
        v = f * ((b - mean) ** 2).mean() + (1 - f) * ((p - mean) ** 2).mean()
        v += f**2 * b.var(ddof=1) / 4 + (1 - f) ** 2 * p.var(ddof=1) / 4
        total += np.sqrt(9 * v / 4) + np.sqrt(36 * v / 4)
    assert float(penalty) == pytest.approx(2.0 * total / 64, rel=1e-3)
    assert float(logs["robust_penalty"]) == pytest.approx(float(penalty), rel=1e-6)


def test_strict_is_the_batch_standard_deviation(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, conservative_weight=0.0, robust_weight=0.5, strict=True, behavior_kwargs=None).learn(1)
    batch = model.sample_batch()
    q = th.randn(2, 64, generator=th.Generator().manual_seed(0))
    penalty, _ = model.critic_penalty(model.networks(), batch, model.draw_noise(batch), q)
    expected = 0.5 * (q[0].std() + q[1].std())
    assert float(penalty) == pytest.approx(float(expected), rel=1e-4)


def test_strict_raw_divides_by_the_size_of_the_data(pendulum_arrays: dict[str, np.ndarray]) -> None:
    options = {"conservative_weight": 0.0, "robust_weight": 0.5, "strict": True}
    options |= {"visitation": {"count_scale": "raw"}}
    options |= {"behavior_kwargs": None}
    model = make(pendulum_arrays, **options).learn(1)
    batch = model.sample_batch()
    q = th.randn(2, 64, generator=th.Generator().manual_seed(0))
    penalty, _ = model.critic_penalty(model.networks(), batch, model.draw_noise(batch), q)
    expected = 0.5 * (q[0].std() + q[1].std()) / np.sqrt(1000)  # five episodes of 200 steps
    assert float(penalty) == pytest.approx(float(expected), rel=1e-4)


def test_strict_refuses_a_count_mode(pendulum_arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="one n for all states"):
        make(pendulum_arrays, strict=True, visitation="simhash")


def test_negative_robust_weight_is_refused(pendulum_arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="robust_weight must not be negative"):
        make(pendulum_arrays, robust_weight=-0.1)


def test_the_two_terms_draw_actions_of_their_own(pendulum_arrays: dict[str, np.ndarray]) -> None:
    model = make(pendulum_arrays, robustness={"kind": "std", "n_states": 16, "n_actions": 5}, n_action_samples=2).learn(1)
    noise = model.draw_noise(model.sample_batch())
    assert noise.terms["robust"].policy.shape == (16, 5, 1)
    assert noise.terms["conservative"].policy.shape[1:] == (2, 1)


def test_the_term_at_drawn_states_is_that_at_all_on_average(pendulum_arrays: dict[str, np.ndarray]) -> None:
    """At 16 of 64 states, with the same actions at each: the mean of 400 draws within four standard errors of the whole."""
    model = make(pendulum_arrays, robust_weight=0.5, robustness={"kind": "std", "n_states": 16}).learn(1)
    batch, nets = model.sample_batch(), model.networks()
    q = nets.q(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1).detach()
    assert model.draw_noise(batch).terms["robust"].states.shape == (16,)
    model.robustness = Std(n_states=None)
    whole = model.draw_noise(batch)
    drawn = whole.terms["robust"]
    assert drawn.states is None

    def term(states: th.Tensor | None) -> float:
        noise = whole
        if states is not None:
            some = RobustNoise(BehaviorNoise(*(part[states] for part in drawn.behavior)), drawn.policy[states], states)
            noise = replace(whole, terms={**whole.terms, "robust": some})
        return model.terms[1].loss(nets, batch, noise, q)[0].item()

    generator = th.Generator().manual_seed(0)
    draws = np.array([term(drawn_states(64, 16, generator)) for _ in range(400)])
    assert draws.std() > 0
    assert draws.mean() == pytest.approx(term(None), abs=4 * draws.std() / 20)
