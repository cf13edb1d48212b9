"""The penalised reward, the coefficient's sign and steps, and what is kept with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.equations import demo_options
from sb3_offline import COMBO, MOPO
from sb3_offline.dynamics.world import held_out_rows
from sb3_offline.mopo.mopo import DualStep
from sb3_offline.tabular import FiniteMDP, policy_evaluation
from tests.conftest import FAST_MODEL_BASED, PUBLISHED_MOPO, Arrays, maker

make = maker(MOPO, **FAST_MODEL_BASED | PUBLISHED_MOPO)


def step(alpha: float, uncertainty: float, delta: float, rate: float, cap: float = 100.0) -> float:
    return float(DualStep(rate, cap)(th.tensor(alpha), th.tensor(uncertainty), th.tensor(delta)))


def test_signs_of_the_dual_step() -> None:
    """H = 2, delta = 1, alpha = .5, lr = .1: .6; H = .5: .45; never below 0."""
    assert step(0.5, 2.0, 1.0, 0.1) == pytest.approx(0.6)
    assert step(0.5, 0.5, 1.0, 0.1) == pytest.approx(0.45)
    assert step(0.01, 0.0, 1.0, 0.1) == 0.0
    assert step(0.5, 2.0, 1.0, 0.1, cap=0.55) == pytest.approx(0.55)


def test_dual_step_knows_no_units() -> None:
    """R = 3, U = .5: alpha counts in 6, E[u] - delta in .5, so lr .1 makes of a gap of .25 a step of .1 (.25/.5) 6 = .3."""
    dual_step = DualStep.of(3.0, 0.5, 0.1, None)
    alpha, delta = th.tensor(1.0), th.tensor(1.0)
    assert float(dual_step(alpha, delta + 0.25, delta)) == pytest.approx(1.3)
    assert dual_step.cap == pytest.approx(60.0)  # ten times R/U
    assert DualStep.of(3.0, 0.5, 0.1, 7.0).cap == 7.0
    assert DualStep.of(3.0, 5.0, 0.1, None) == pytest.approx((0.1 * 3 / 25, 6.0))  # u in tenths: alpha a tenth, its step too


def test_dual_step_is_the_gradient_of_j() -> None:
    alpha = th.tensor(0.5, requires_grad=True)
    (alpha * (1.0 - th.tensor(2.0))).backward()  # J = alpha (delta - H)
    assert step(0.5, 2.0, 1.0, 0.1) == pytest.approx(0.5 - 0.1 * alpha.grad.item())


@pytest.mark.parametrize("options", [{"penalty_weight": 0.7}, {"target_uncertainty": 0.4, "penalty": "max_std"}])
def test_imagined_rewards_are_penalised_and_real_ones_are_not(pendulum_arrays: Arrays, options: dict[str, Any]) -> None:
    """r - lambda u, or r - alpha u whatever delta, with u recomputed from the rows themselves."""
    model = make(pendulum_arrays, real_ratio=0.5, **options).learn(1)
    weight = 0.7 if "penalty_weight" in options else 1.3
    model.penalty_coefficient = th.tensor(weight)
    batch = model.sample_batch()
    assert batch.n_real == 32
    assert th.isin(batch.rewards[:32], model.replay_buffer.rewards).all()
    assert batch.rewards.shape == (64,)
    buffer = model.model_buffer
    for row in range(32, 64):
        index = int((buffer.observations == batch.observations[row]).all(1).nonzero()[0])
        u = model.uncertainty(buffer.observations[[index]], 2.0 * buffer.actions[[index]])  # Pendulum's torque: [-2, 2]
        assert float(buffer.uncertainties[index]) == pytest.approx(float(u), rel=1e-4)
        assert float(batch.rewards[row]) == pytest.approx(float(buffer.rewards[index] - weight * u), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 30.3])
def test_certainty_does_not_pay_for_staying_alive(pendulum_arrays: Arrays, alpha: float) -> None:
    """
    State 0: ending pays 1, living on pays .005 a step, for ever (.5 at gamma .99). Where the model is sure (u = 0) the
    penalised task is the task, whatever alpha and delta: -alpha (u - delta) would pay alpha delta a step for living.
    """
    model = make(pendulum_arrays, target_uncertainty=0.545).learn(1)
    model.penalty_coefficient.fill_(alpha)
    model.model_buffer.reset()
    first, gone = th.zeros(3), th.ones(3)
    ends = th.tensor([1.0, 0.0])  # the first row ends, the second lives on
    model.model_buffer.write(
        observations=first.repeat(2, 1),
        actions=th.tensor([[1.0], [-1.0]]),
        next_observations=th.stack([gone, first]),
        rewards=th.tensor([1.0, 0.005]),
        dones=ends,
        uncertainties=th.zeros(2),
    )
    batch = model.sample_batch()
    imagined = slice(batch.n_real, None)
    rewards = [float(batch.rewards[imagined][batch.dones[imagined] == done].unique()) for done in (1.0, 0.0)]
    kernel = np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])  # (state, action, next state); 1 is the end
    alive = np.array([[[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    task = FiniteMDP(kernel, np.array([rewards, [0.0, 0.0]]), 0.99, np.array([1.0, 0.0]), alive)
    end, live = (policy_evaluation(task, np.tile(np.eye(2)[action], (2, 1)))[0, action] for action in (0, 1))
    assert (end, live) == pytest.approx((1.0, 0.5), rel=1e-5)


def test_max_std_of_the_ensemble(pendulum_arrays: Arrays) -> None:
    """MOPO's penalty, from the networks' own log-variances."""
    model = make(pendulum_arrays, penalty_weight=1.0).learn(1)
    observations, actions = th.randn(5, 3), th.randn(5, 1)
    _, logvar = model.dynamics(observations, actions)
    expected = logvar.exp().sum(dim=2).sqrt().max(dim=0).values
    th.testing.assert_close(model.uncertainty(observations, actions), expected)


def test_calibration_widens_the_penalty(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, penalty_weight=1.0).learn(1)
    observations, actions = th.randn(5, 3), th.randn(5, 1)
    before = model.uncertainty(observations, actions)
    model.dynamics.calibration.scale.fill_(3.0)
    th.testing.assert_close(model.uncertainty(observations, actions), 3.0 * before)


def test_without_weight_it_is_sac_on_the_same_batches(pendulum_arrays: Arrays) -> None:
    """lambda = 0 rolls out, samples and rewards as COMBO does."""
    equal = FAST_MODEL_BASED | {"reward_scale": 1.0}
    mopo = make(pendulum_arrays, penalty_weight=0.0, real_ratio=0.5, entropy_backup=False).learn(1)
    combo = COMBO("MlpPolicy", env="Pendulum-v1", dataset=pendulum_arrays, conservative_weight=0.0, **equal)
    combo.learn(1)
    assert th.equal(mopo.model_buffer.observations, combo.model_buffer.observations)
    ours, theirs = mopo.sample_batch(), combo.sample_batch()
    assert all(th.equal(a, b) for a, b in zip(ours[:5], theirs[:5], strict=True))
    assert isinstance(mopo, SAC)
    mopo.learn(29, reset_num_timesteps=False)
    assert float(mopo.penalty_coefficient) == 0.0


def test_whole_numbers_will_do_as_weight_and_target(pendulum_arrays: Arrays) -> None:
    """A target given as a whole number does not make alpha's arithmetic whole."""
    whole, floating = (make(pendulum_arrays, target_uncertainty=kind(1), penalty="max_std").learn(3) for kind in (int, float))
    mean = float(whole.rollout_uncertainty)
    assert mean == float(floating.rollout_uncertainty) != round(mean)
    assert float(make(pendulum_arrays, penalty_weight=1).learn(2, log_interval=1).penalty_coefficient) == 1.0


def test_delta_is_the_percentile_on_held_out_rows(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, target_percentile=80.0, penalty="entropy").learn(1)
    dataset = model.load_dataset()
    rows = held_out_rows(model.dynamics, dataset)
    u = model.uncertainty(th.as_tensor(dataset.observations[rows]), th.as_tensor(dataset.actions[rows]))
    assert len(rows) == 200
    assert float(model.penalty_target) == pytest.approx(np.percentile(u.numpy(), 80), rel=1e-5)
    assert float((u <= model.penalty_target).float().mean()) == pytest.approx(0.8, abs=0.01)


def test_delta_is_the_mean_on_held_out_rows(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, penalty="entropy", target_percentile=None).learn(1)
    dataset = model.load_dataset()
    rows = held_out_rows(model.dynamics, dataset)
    u = model.uncertainty(th.as_tensor(dataset.observations[rows]), th.as_tensor(dataset.actions[rows]))
    assert float(model.penalty_target) == pytest.approx(float(u.mean()), rel=1e-6)


def test_coefficient_rises_above_delta_and_falls_below(pendulum_arrays: Arrays) -> None:
    """One step is the learning rate times (E[u] - delta)/U times R/U, with R of the data and U of held-out rows."""
    options: dict[str, Any] = {"penalty": "max_std", "target_uncertainty": -1.0, "rollout_freq": 1000}
    model = make(pendulum_arrays, max_penalty_weight=1e9, **options).learn(10)
    mean = float(model.model_buffer.uncertainties[: model.model_buffer.size()].mean())
    assert float(model.rollout_uncertainty) == pytest.approx(mean, rel=1e-4)
    dataset = model.load_dataset()
    rows = held_out_rows(model.dynamics, dataset)
    held_out = model.uncertainty(th.as_tensor(dataset.observations[rows]), th.as_tensor(dataset.actions[rows]))
    unit = float(np.std(pendulum_arrays["rewards"]) / held_out.std())
    gap = (mean + 1.0) / float(held_out.std())
    assert float(model.penalty_coefficient) == pytest.approx(10 * 0.01 * gap * unit, rel=1e-3)
    halved = make(pendulum_arrays, reward_scale=0.5, max_penalty_weight=1e9, **options).learn(10)
    assert float(halved.penalty_coefficient) == pytest.approx(float(model.penalty_coefficient) / 2, rel=1e-3)
    capped = make(pendulum_arrays, target_uncertainty=-1e6, penalty="max_std").learn(5)
    assert float(capped.penalty_coefficient) == pytest.approx(10 * unit, rel=1e-3)
    strict = make(pendulum_arrays, target_uncertainty=1e6, rollout_freq=1000).learn(5)
    assert float(strict.penalty_coefficient) == 0.0


def test_mean_uncertainty_is_exponential_over_rollouts(pendulum_arrays: Arrays) -> None:
    options: dict[str, Any] = {"rollout_freq": 1, "rollout_length": 1, "rollout_batch_size": 50, "rollout_retain": 3}
    model = make(pendulum_arrays, penalty="max_std", **options).learn(3)
    first, second, third = (float(part.mean()) for part in model.model_buffer.uncertainties.split(50))
    assert len({first, second, third}) == 3
    assert float(model.rollout_uncertainty) == pytest.approx(0.25 * first + 0.25 * second + 0.5 * third, rel=1e-4)


def test_fixed_weight_stays(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, penalty_weight=2.5).learn(5)
    assert float(model.penalty_coefficient) == 2.5
    assert model.penalty == "max_std"
    assert make(pendulum_arrays).penalty == "relative_entropy"


def test_uncertainties_stay_beside_their_rows_when_the_ring_turns(pendulum_arrays: Arrays) -> None:
    model = make(pendulum_arrays, rollout_length=3, rollout_retain=2, rollout_freq=1, rollout_batch_size=50, penalty="entropy")
    model.learn(7)
    buffer = model.model_buffer
    assert buffer.size() == 300
    u = model.uncertainty(buffer.observations, 2.0 * buffer.actions)
    th.testing.assert_close(buffer.uncertainties, u, rtol=1e-3, atol=1e-3)


def test_save_and_load_keep_the_coefficient(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make(pendulum_arrays, target_uncertainty=-1.0, penalty_learning_rate=0.1).learn(10)
    assert float(model.penalty_coefficient) > 0.5
    model.save(tmp_path / "mopo")
    loaded = MOPO.load(tmp_path / "mopo", env=gym.make("Pendulum-v1"), device="cpu")
    assert th.equal(loaded.penalty_coefficient, model.penalty_coefficient)
    assert float(loaded.penalty_target) == -1.0
    loaded.dataset = pendulum_arrays
    loaded.learn(2, reset_num_timesteps=False)
    assert float(loaded.penalty_coefficient) > float(model.penalty_coefficient)


def test_same_seed_same_weights(pendulum_arrays: Arrays) -> None:
    one, other = make(pendulum_arrays).learn(60), make(pendulum_arrays).learn(60)
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert th.equal(a, b)
    assert th.equal(one.penalty_coefficient, other.penalty_coefficient)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty_weight": -1.0}, "penalty_weight must not be negative"),
        ({"penalty": "max-std"}, "penalty must be one of max_std, entropy"),
        ({"penalty_weight": 1.0, "target_uncertainty": 1.0}, "not both"),
        ({"penalty_weight": 1.0, "target_percentile": 95.0}, "goes with neither"),
        ({"target_uncertainty": 1.0, "target_percentile": 95.0}, "goes with neither"),
        ({"target_percentile": 101.0}, "must lie in"),
        ({"penalty_weight": 1.0, "max_penalty_weight": 5.0}, "does not go with penalty_weight"),
        ({"max_penalty_weight": 0.0}, "max_penalty_weight must be positive"),
        ({"penalty_learning_rate": 0.0}, "penalty_learning_rate must be positive"),
    ],
)
def test_bad_options_are_refused(pendulum_arrays: Arrays, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(pendulum_arrays, **options)


def test_defaults_are_the_recipe() -> None:
    """As docs/mopo.md has it: long rollouts, half real rows, a learned weight that follows the latest rollouts."""
    model = MOPO("MlpPolicy", env="Pendulum-v1")
    assert (model.rollout_length, model.rollout_batch_size, model.rollout_freq) == (25, 1000, 250)
    assert (model.real_ratio, model.tau, model.averaging_rate, model.ent_coef) == (0.5, 0.01, 0.001, 0.007)
    assert (model.reward_scale, model.entropy_backup) == ("auto", True)
    assert [model.learning_rate(left) for left in (1.0, 0.5, 0.25, 0.0)] == pytest.approx([1e-4, 1e-4, 5e-5, 0.0])
    assert [model.qf_learning_rate(left) for left in (1.0, 0.25)] == pytest.approx([3e-4, 1.5e-4])
    assert model.penalty_weight is None
    assert model.target_percentile is None


@pytest.mark.slow
def test_learned_weight_meets_the_constraint_on_pendulum() -> None:
    """E[u] of the rollouts of the last 5,000 of 10,000 steps lies within 10% of delta, with a weight that is at work."""
    options = demo_options(MOPO)
    model = MOPO("MlpPolicy", dataset="sb3_offline/Pendulum-medium-replay-v0", seed=0, device="cpu", **options)
    ratios: list[float] = []

    class Record(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            ratios.append(model.logger.name_to_value["model_rollout/uncertainty"] / float(model.penalty_target))

    model.learn(10_000, callback=Record())
    assert float(model.penalty_coefficient) > 0.5
    assert np.mean(ratios[-20:]) == pytest.approx(1.0, abs=0.1)
