"""Fitted Q evaluation against exact policy evaluation, and its interval, its units and its resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetInfo, OfflineDataset
from sb3_offline.ope import FQE, doubts
from sb3_offline.ope.estimate import first_rows, student_quantile
from sb3_offline.ope.fqe import bootstrap_counts
from sb3_offline.ope.policy import EvaluatedPolicy
from sb3_offline.tabular import FiniteMDP, empirical_mdp, policy_evaluation, random_mdp
from tests.ope.worlds import Tabular, one_hot_log

EXACT: dict[str, Any] = {"net_arch": (), "batch_size": None, "tau": 1.0, "learning_rate": 0.1, "n_steps": 600, "gamma": 0.8}


def a_world(seed: int, ends: bool) -> tuple[FiniteMDP, np.ndarray]:
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, n_states=4, n_actions=2, gamma=0.8, reward_range=(-3.0, 5.0))
    if ends:
        mdp = FiniteMDP(mdp.transitions, mdp.rewards, mdp.gamma, mdp.initial, np.full((4, 2, 4), 0.7))
    return mdp, np.eye(2)[rng.integers(2, size=4)]


def exact_q(data: OfflineDataset, counts: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Q (S, A) of the policy in the MDP that the bootstrap's episodes describe, by one linear solve."""
    rows = np.repeat(np.arange(len(data)), np.repeat(counts, data.episode_lengths()).astype(int))
    columns = (data.observations.argmax(axis=1), data.actions, data.rewards, data.next_observations.argmax(axis=1))
    return policy_evaluation(
        empirical_mdp(*(column[rows] for column in columns), data.terminations[rows], 4, 2, 0.8).mdp, policy
    )


@pytest.mark.parametrize("ends", [False, True])
def test_exact_on_tabular_worlds(ends: bool) -> None:
    mdp, policy = a_world(1, ends)
    data = one_hot_log(mdp, np.full((4, 2), 0.5), n_episodes=40, length=8)
    fitted = FQE(n_critics=1, **EXACT).fit(EvaluatedPolicy(Tabular(policy), data), data)
    truth = exact_q(data, np.ones(data.n_episodes), policy)
    found = fitted.q(np.repeat(np.eye(4, dtype=np.float32), 2, axis=0), np.tile([0, 1], 4)).reshape(4, 2)
    assert np.abs(found - truth).max() < 1e-4
    value = FQE(n_critics=1, **EXACT).estimate(Tabular(policy), data)
    starts = data.observations[first_rows(data)].argmax(axis=1)
    assert value.value == pytest.approx((truth * policy).sum(axis=1)[starts].mean(), abs=1e-4)
    assert value.low == -np.inf
    assert value.high == np.inf


def test_each_critic_evaluates_its_own_bootstrap() -> None:
    mdp, policy = a_world(2, ends=True)
    data = one_hot_log(mdp, np.full((4, 2), 0.5), n_episodes=40, length=8)
    fitted = FQE(n_critics=2, **EXACT).fit(EvaluatedPolicy(Tabular(policy), data), data)
    found = fitted.v(np.eye(4, dtype=np.float32))
    counts = bootstrap_counts(2, data.n_episodes, seed=0)
    assert not np.array_equal(counts[0], counts[1])
    for k in range(2):
        assert found[k] == pytest.approx((exact_q(data, counts[k], policy) * policy).sum(axis=1), abs=1e-4)


class Half:
    """A policy of continuous actions: a constant share of the space's upper bound, with noise if it may."""

    def predict(self, observation: Any, deterministic: bool = False, **_: Any) -> tuple[np.ndarray, None]:
        mean = np.full((len(observation), 1), 1.0, dtype=np.float32)
        return (mean if deterministic else mean + np.random.default_rng(0).normal(0, 0.1, mean.shape)), None


def linear_log(n_episodes: int = 30, length: int = 5) -> OfflineDataset:
    """Reward 1.5 a - 2 at every step, of uniform actions in [-2, 2], no end: a = 1 is worth -0.5/(1 - gamma)."""
    rng = np.random.default_rng(0)
    n = n_episodes * length
    states = rng.normal(size=(n + 1, 2)).astype(np.float32)
    actions = rng.uniform(-2, 2, (n, 1)).astype(np.float32)
    cut = np.arange(n) % length == length - 1
    info = DatasetInfo("linear", spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-2.0, 2.0, (1,)))
    none = np.zeros(n, dtype=bool)
    return OfflineDataset(info, states[:-1], actions, 1.5 * actions[:, 0] - 2, states[1:], none, cut, ~none)


def test_continuous_actions_of_other_bounds() -> None:
    data = linear_log()
    estimate = FQE(n_critics=2, **EXACT).estimate(Half(), data)
    assert estimate.value == pytest.approx(-2.5, abs=1e-3)
    assert estimate.low <= estimate.value <= estimate.high
    sampled = FQE(n_critics=1, deterministic=False, **EXACT).estimate(Half(), data)
    assert sampled.value == pytest.approx(-2.5, abs=0.1)


def test_the_level_is_reached_within_the_steps() -> None:
    """The log earns -200, the policy -50: of the 150 that are wrong at the start 2% may be left, whatever the steps."""
    assert (1 - 0.01 * FQE(n_steps=700)._target_rate()) ** 700 == pytest.approx(0.02)
    assert FQE(n_steps=700, tau=0.01)._target_rate() == 0.01
    assert FQE(n_steps=10)._target_rate() == 1.0
    estimate = FQE(n_critics=1, n_steps=1000).estimate(Half(), linear_log())
    assert estimate.value == pytest.approx(-50.0, abs=15.0)


def test_a_bound_that_the_log_reaches_is_no_sign_of_a_fit_that_ran_away() -> None:
    """Alive for ever is the best there is, and the log shows it; 150 is more than any policy earns, and the log shows half."""
    data, options = linear_log(), {"n_critics": 1, "net_arch": (), "n_steps": 1}
    for rewards, share in ((np.ones(150), 0.0), (np.where(np.arange(150) % 5 == 1, 1.0, 0.5), 1.0)):
        fitted = FQE(**options).fit(EvaluatedPolicy(Half(), data), replace(data, rewards=rewards.astype(np.float32)))
        assert fitted.update.at_a_bound(np.array([100.5, 150.0])) == share


def test_values_scale_with_the_reward() -> None:
    data = linear_log()
    options: dict[str, Any] = {"net_arch": (16,), "n_steps": 50, "n_critics": 2}
    large = replace(data, rewards=1000 * data.rewards)
    assert FQE(**options).estimate(Half(), large).value == pytest.approx(
        1000 * FQE(**options).estimate(Half(), data).value, rel=1e-3
    )


def test_a_stopped_fit_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, fast = linear_log(), {"net_arch": (16,), "n_steps": 30, "n_critics": 2, "batch_size": 32}
    monkeypatch.setattr("sb3_offline.ope.fqe.CHECK_EVERY", 10)
    whole = FQE(**fast).estimate(Half(), data)
    file = tmp_path / "fqe.resume"

    class Stopped(FQE):
        def _keep(self, update: Any, identity: str, step: int) -> None:
            super()._keep(update, identity, step)
            if step == 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stopped(checkpoint=file, **fast).estimate(Half(), data)
    taken: list[int] = []
    monkeypatch.setattr(FQE, "_keep", lambda *what: taken.append(what[-1]))
    resumed = FQE(checkpoint=file, **fast).estimate(Half(), data)
    assert taken == [30]
    assert resumed.value == whole.value
    other = FQE(checkpoint=file, **(fast | {"seed": 1})).estimate(Half(), data)  # another fit's file is not taken
    assert taken == [30, 10, 20, 30]
    assert other.value != whole.value


def test_a_policy_out_of_the_log_is_doubted() -> None:
    """The log holds actions in [-2, 0]; the policy takes 1."""
    data = linear_log(n_episodes=400)  # enough for a behaviour policy
    left = replace(data, actions=-np.abs(data.actions))
    estimate = FQE(net_arch=(16,), n_steps=50).estimate(Half(), left)
    assert estimate.diagnostics["ood_share"] > 0.9
    assert any("stranger" in sentence for sentence in doubts(estimate))


def test_a_policy_within_the_log_is_not_doubted() -> None:
    data = linear_log(n_episodes=400)
    assert FQE(net_arch=(16,), n_steps=50).estimate(Half(), data).diagnostics["ood_share"] < 0.1


def test_student_quantiles() -> None:
    """Values of printed tables."""
    for degrees, quantile in ((1, 12.706), (4, 2.776), (9, 2.262), (30, 2.042)):
        assert student_quantile(0.975, degrees) == pytest.approx(quantile, rel=0.01)


@pytest.mark.parametrize(
    ("option", "value"),
    [("gamma", 1.0), ("confidence", 1.0), ("n_critics", 0), ("n_steps", 0), ("batch_size", 0), ("learning_rate", 0.0)],
)
def test_options_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        FQE(**{option: value})
