"""Held-out figures, and callbacks that need no simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure

from sb3_offline import BC, CQL, IQL, TD3BC, DiscreteCQL, OfflineSAC, PreQN, load_dataset
from sb3_offline.buffers.returns import returns_to_go
from sb3_offline.common.validation import Validation
from sb3_offline.datasets import DatasetError
from sb3_offline.evaluation.selection import OfflineSelectionCallback, StopOnValidation
from sb3_offline.ope import Estimate
from sb3_offline.ope.estimate import Estimator
from tests.conftest import FAST, Arrays


def pendulum(arrays: Arrays, algorithm: Any = OfflineSAC, **options: Any) -> Any:
    return algorithm("MlpPolicy", "Pendulum-v1", dataset=arrays, **(FAST | options))


def test_held_out_episodes_take_no_part_and_are_logged(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = pendulum(pendulum_arrays, CQL, n_action_samples=2)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(4, log_interval=2, validation=0.2)
    assert model.replay_buffer.size() == 800  # one of five episodes is held out
    head, *lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert {f"validation/{name}" for name in ("td_error", "likelihood", "conservative_gap", "q_bias")} <= set(head.split(","))
    assert len(lines) == 2
    model.save(tmp_path / "model")  # the held-out rows stay behind
    assert CQL.load(tmp_path / "model").validation is None


def test_a_clone_is_stopped_by_likelihood_alone(pendulum_arrays: Arrays) -> None:
    model = pendulum(pendulum_arrays, BC, learning_rate=0.0)
    with pytest.raises(ValueError, match=r"BC has no td_error: take StopOnValidation\('likelihood'\)"):
        model.learn(2, StopOnValidation(), validation=0.2)
    model.learn(9, StopOnValidation("likelihood", patience=2, freq=1), validation=0.2)
    assert model.num_timesteps == 3  # nothing is learned: the first look stays the best


@pytest.mark.parametrize("algorithm", [IQL, TD3BC])
def test_figures_of_other_actors(algorithm: Any, pendulum_arrays: Arrays) -> None:
    """IQL's target is V's; TD3's actor has no density, but a distance."""
    model = pendulum(pendulum_arrays, algorithm).learn(3, validation=0.2)
    rows, nets, gamma = model.validation, model.networks(), 0.995  # both defaults
    with th.no_grad():
        q = th.cat(model.critic(rows.observations, rows.actions), dim=1).mean(dim=1)
        if algorithm is IQL:
            following, likelihood = (
                model.value_net(rows.next_observations),
                nets.log_prob(rows.observations, rows.actions[:, None]),
            )
        else:
            actions = model.actor(rows.next_observations)
            following = th.cat(model.critic_target(rows.next_observations, actions), dim=1).amin(dim=1)
            likelihood = -(model.actor(rows.observations) - rows.actions).square()
        error = (rows.rewards + gamma * (1 - rows.dones) * following - q).square().mean().sqrt()
    assert rows.figures()["td_error"] == pytest.approx(float(error), rel=1e-5)
    assert rows.figures()["likelihood"] == pytest.approx(float(likelihood.mean()), rel=1e-5)


def test_the_scale_of_rewards_may_be_fitted(pendulum_arrays: Arrays) -> None:
    """ "auto" is a number by then: rewards of unit size."""
    model = pendulum(pendulum_arrays, reward_scale="auto").learn(1, validation=0.2)
    size = float(np.sqrt(np.square(model.load_dataset().split(0.2, seed=0)[0].rewards, dtype=np.float64).mean()))
    held_out = model.load_dataset().split(0.2, seed=0)[1]
    np.testing.assert_allclose(model.validation.rewards, held_out.rewards / size, rtol=1e-5)


def test_the_training_goes_on_as_it_would_without(pendulum_arrays: Arrays) -> None:
    data = load_dataset(pendulum_arrays, env_id="Pendulum-v1")
    train, held_out = data.split(0.2, seed=0)
    plain = OfflineSAC("MlpPolicy", dataset=train, **FAST).learn(3, log_interval=1)
    for validation, source in ((0.2, data), (held_out, train)):
        watched = OfflineSAC("MlpPolicy", dataset=source, **FAST).learn(3, log_interval=1, validation=validation)
        for one, other in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True):
            assert th.equal(one, other)


def test_figures_against_their_definitions(pendulum_arrays: Arrays) -> None:
    """With Q made constant, 7 everywhere: the TD error is that of r + 7 gamma - 7, the bias 7 minus the mean return."""
    data = load_dataset(pendulum_arrays, env_id="Pendulum-v1")
    model = pendulum(pendulum_arrays, reward_scale=0.5, reward_shift=1.0)
    for critic in (model.critic, model.critic_target):
        for network in critic.q_networks:
            th.nn.init.zeros_(network[-1].weight)
            th.nn.init.constant_(network[-1].bias, 7.0)
    figures = Validation(model, data).figures()
    rewards = 0.5 * data.rewards.astype(np.float64) + 1.0
    returns = returns_to_go(rewards, data.terminations, data.episode_ends, 0.99)
    assert figures["td_error"] == pytest.approx(np.sqrt(np.mean((rewards + 7 * 0.99 - 7) ** 2)), rel=1e-5)
    assert figures["q_bias"] == pytest.approx(7 - returns.mean(), rel=1e-5)
    assert figures["conservative_gap"] == pytest.approx(0, abs=1e-5)


def test_discrete_actions() -> None:
    model = DiscreteCQL("MlpPolicy", "sb3_offline/CartPole-medium-replay-v0", **FAST)
    data = model.load_dataset()[:500]
    figures = Validation(model, data).figures()
    taken = model.predict(data.observations, deterministic=True)[0] == data.actions
    assert figures["likelihood"] == pytest.approx(taken.mean())
    assert np.isfinite(list(figures.values())).all()


def test_what_has_no_validation_says_so(pendulum_arrays: Arrays) -> None:
    for wrong in (0.0, 1.0, 2):
        with pytest.raises(ValueError, match="validation"):
            pendulum(pendulum_arrays).learn(1, validation=wrong)
    broken = pendulum_arrays | {"next_observations": pendulum_arrays["observations"].copy()}
    with pytest.raises(DatasetError, match="next_observations"):
        pendulum(pendulum_arrays).learn(1, validation=broken)
    pendulum(pendulum_arrays, check_data=False).learn(1, validation=broken)
    with pytest.raises(ValueError, match="no validation"):
        PreQN("MlpPolicy", "Pendulum-v1", dataset=pendulum_arrays, policy_kwargs=FAST["policy_kwargs"]).learn(
            1, log_interval=1, validation=0.2
        )
    with pytest.raises(ValueError, match="held-out data"):
        pendulum(pendulum_arrays).learn(1, callback=StopOnValidation())
    with pytest.raises(ValueError, match="figure"):
        StopOnValidation("q_bias")


def test_training_stops_when_the_figure_turns(pendulum_arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors 5, 4, 3, 3.5, 3.2: the best is at the third look, and two worse ones end it."""
    errors = iter([5.0, 4.0, 3.0, 3.5, 3.2, 1.0])
    monkeypatch.setattr(Validation, "figures", lambda _: {"td_error": next(errors)})
    callback = StopOnValidation(patience=2, freq=2)
    model = pendulum(pendulum_arrays).learn(12, callback=callback, log_interval=None, validation=0.2)
    assert model.num_timesteps == 10
    assert callback.best_step == 6


class Told(Estimator):
    """Says what it is told, one after the other."""

    name = "Told"

    def __init__(self, *lows: float) -> None:
        super().__init__()
        self.lows = iter(lows)

    def _estimate(self, policy: Any, dataset: Any) -> Estimate:
        low = next(self.lows)
        return self._result(low + 1, (low, low + 2), np.zeros(1), {})


def test_the_best_estimate_is_kept(pendulum_arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_offline.ope.estimate.describes", lambda _: False)
    data = load_dataset(pendulum_arrays, env_id="Pendulum-v1")
    callback = OfflineSelectionCallback(data, tmp_path, freq=2, estimator=Told(1.0, 3.0, 2.0, 0.0))
    model = pendulum(pendulum_arrays).learn(7, callback=callback)  # the last one is judged at the end
    assert [step for step, _ in callback.history] == [2, 4, 6, 7]
    kept = OfflineSAC.load(tmp_path / "best_offline_model.zip")
    assert kept.num_timesteps == 4
    assert callback.best == 3.0
    assert model.num_timesteps == 7
