"""The shared face: SB3's policies and strangers, importance weights, certificates and ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC

from sb3_offline import BC, IQL
from sb3_offline.datasets import DatasetError, SpacesOnlyEnv
from sb3_offline.ope import PDIS, PDWIS, WIS, Certificate, DirectMean, Estimate, Ranked, behavior_value, certify, doubts, rank
from sb3_offline.ope.estimate import Estimator, holds_all
from sb3_offline.ope.policy import EvaluatedPolicy
from sb3_offline.tabular import random_mdp
from tests.ope.test_fqe import Half, linear_log
from tests.ope.worlds import Tabular, one_hot_log

MDP = random_mdp(np.random.default_rng(0), n_states=3, n_actions=2)
DATA = one_hot_log(MDP, np.full((3, 2), 0.5), n_episodes=25, length=3)


class Told(Estimator):
    """An estimator that says what it is told, a policy's ``worth``."""

    name = "Told"

    def _estimate(self, policy: EvaluatedPolicy, dataset: Any) -> Estimate:
        value, half = policy.source.worth
        return self._result(value, (value - half, value + half), np.zeros(dataset.n_episodes), {})


class Worth(Tabular):
    """Acts as the log does, so that nothing is out of it."""

    def __init__(self, value: float, half: float = 0.0):
        super().__init__(np.eye(2)[[0, 1, 0]])
        self.worth = value, half


def test_sb3_discrete_policies_say_what_they_do() -> None:
    env = SpacesOnlyEnv(DATA.observation_space, DATA.action_space)
    ppo, dqn = PPO("MlpPolicy", env, seed=0, device="cpu"), DQN("MlpPolicy", env, buffer_size=1, seed=0, device="cpu")
    sampling = EvaluatedPolicy(ppo, DATA, deterministic=False).probabilities(DATA.observations)
    assert sampling.sum(axis=1) == pytest.approx(np.ones(len(DATA)))
    assert ((sampling > 0.01) & (sampling < 0.99)).all()
    for model in (ppo, dqn, dqn.policy):
        table = EvaluatedPolicy(model, DATA).probabilities(DATA.observations)
        assert np.array_equal(table.argmax(axis=1), model.predict(DATA.observations, deterministic=True)[0])
        assert set(np.unique(table)) == {0.0, 1.0}
    assert np.isfinite(DirectMean().estimate(dqn, DATA).value)


def test_sb3_densities_are_over_scaled_actions() -> None:
    """In one dimension a density over [-1, 1] integrates to 1, whatever the task's own bounds."""
    data = linear_log()
    env = SpacesOnlyEnv(data.observation_space, data.action_space)
    grid = np.linspace(-0.9995, 0.9995, 2000)
    for model in (SAC("MlpPolicy", env, buffer_size=1, seed=0, device="cpu"), PPO("MlpPolicy", env, seed=0, device="cpu")):
        states = np.repeat(data.observations[:1], len(grid), axis=0)
        actions = (2 * grid[:, None]).astype(np.float32)
        density = np.exp(EvaluatedPolicy(model, data).log_prob(states, actions))
        mass = density.sum() * (grid[1] - grid[0])
        assert 0.9 < mass < 1.01  # PPO's Gaussian has some beyond the bounds


def test_our_own_actors_say_their_own_densities() -> None:
    """BC's is squashed as SAC's; IQL's is torch's Normal around tanh(mean), over actions scaled to [-1, 1]."""
    data = linear_log()
    options: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu", "check_data": False}
    states, actions = data.observations[:20], data.actions[:20]
    iql, bc = (cls("MlpPolicy", dataset=data, **options).learn(5) for cls in (IQL, BC))
    seen, scaled = th.as_tensor(states), th.as_tensor(actions / 2.0)
    with th.no_grad():
        mean, log_std, _ = iql.actor.get_action_dist_params(seen)
        normal = th.distributions.Normal(th.tanh(mean), log_std.exp()).log_prob(scaled).sum(dim=1)
        mean, log_std, _ = bc.actor.get_action_dist_params(seen)
        squashed = th.distributions.Normal(mean, log_std.exp()).log_prob(scaled.atanh()) - (1 - scaled.square()).log()
    for model, expected in ((iql, normal), (bc, squashed.sum(dim=1))):
        found = EvaluatedPolicy(model, data, deterministic=False).log_prob(states, actions)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_of_the_behaviour_itself_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ratio 1: all three are the mean discounted return, and every episode is effective."""
    monkeypatch.setattr("sb3_offline.ope.importance.log_ratios", lambda _, dataset: np.zeros(len(dataset)))
    starts = np.arange(0, len(DATA), 3)
    mean = np.mean([DATA.rewards[s : s + 3] @ 0.9 ** np.arange(3) for s in starts])
    for estimator in (WIS(gamma=0.9), PDIS(gamma=0.9), PDWIS(gamma=0.9)):
        estimate = estimator.estimate(Worth(0), DATA)
        assert estimate.value == pytest.approx(mean, rel=1e-6)
        assert estimate.low < mean < estimate.high
        assert estimate.diagnostics["effective_episodes"] == pytest.approx(25)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(TypeError, match="predict"):
        WIS().estimate("model.zip", DATA)
    with pytest.raises(ValueError, match="density"):
        WIS().estimate(Half(), linear_log())
    with pytest.raises(ValueError, match="probabilities"):
        WIS(deterministic=False).estimate(Worth(0), DATA)
    env = SpacesOnlyEnv(linear_log().observation_space, linear_log().action_space)
    with pytest.raises(ValueError, match="observation_space"):
        WIS().estimate(SAC("MlpPolicy", env, buffer_size=1, device="cpu"), DATA)
    with pytest.raises(ValueError, match="critic"):
        DirectMean().estimate(Half(), linear_log())


def test_data_that_cannot_be_right_judge_nobody() -> None:
    """Next observations that are the rows' own ones, as the gate of training refuses them."""
    log = linear_log()
    broken = replace(log, next_observations=log.observations.copy())
    policy: Any = Half()
    policy.worth, policy.check_data = (1.0, 0.0), True
    with pytest.raises(DatasetError, match="next_observations"):
        Told().estimate(policy, broken)
    policy.check_data = False
    assert Told().estimate(policy, broken).value == 1.0


def test_rank_puts_the_highest_first() -> None:
    ranked = rank({"low": Worth(1.0), "high": Worth(3.0), "middle": Worth(2.0)}, DATA, [Told()])
    assert [one.name for one in ranked] == ["high", "middle", "low"]
    assert rank([Worth(1.0)], DATA, [Told()])[0].name == "model 0"
    with pytest.raises(ValueError, match="at least one"):
        rank([], DATA)


def test_rank_goes_by_the_lower_bound() -> None:
    """9 - 8.1 = 0.9, 5 - 2.5 = 2.5, 2 - 0.4 = 1.6."""
    ranked = rank({"nine": Worth(9.0, 8.1), "five": Worth(5.0, 2.5), "two": Worth(2.0, 0.4)}, DATA, [Told()])
    assert [one.name for one in ranked] == ["five", "two", "nine"]
    assert [one.estimate.bound for one in ranked] == [pytest.approx(2.5), pytest.approx(1.6), pytest.approx(0.9)]
    alone = Estimate("FQE", 3.0, -np.inf, np.inf, 0.95, 0.99, np.zeros(1))
    assert alone.bound == 3.0


class Doubted(Told):
    """Says half of it, with three times the width."""

    name = "Doubted"

    def _estimate(self, policy: EvaluatedPolicy, dataset: Any) -> Estimate:
        value, half = policy.source.worth
        return self._result(value / 2, (value / 2 - 3 * half, value / 2 + 3 * half), np.zeros(dataset.n_episodes), {})


def test_rank_goes_by_the_mean_of_the_bounds_of_all_that_were_asked() -> None:
    """Of 8 +- 2 the bounds are 6 and 4 - 6 = -2, their mean 2; of 5 +- 1 they are 4 and -.5, mean 1.75; of 4 +- 0 4 and 2."""
    policies = {"eight": Worth(8.0, 2.0), "five": Worth(5.0, 1.0), "four": Worth(4.0)}
    ranked = rank(policies, DATA, [Told(), Doubted()])
    assert [(one.name, one.bound) for one in ranked] == [("four", 3.0), ("eight", 2.0), ("five", 1.75)]
    assert [one.name for one in rank(policies, DATA, [Told()])] == ["eight", "five", "four"]


def test_what_an_interval_does_not_tell() -> None:
    """The log's middle 95% of 1, 2, ..., 41 lie from 2 to 40."""
    returns = np.arange(1.0, 42.0)

    def told(low: float, high: float) -> Estimate:
        return Estimate("FQE", 20.0, low, high, 0.95, 0.99, np.zeros(50))

    assert holds_all(told(1.9, 40.1), returns)
    assert not holds_all(told(2.1, 90.0), returns)
    assert not holds_all(told(-90.0, 39.9), returns)
    assert not holds_all(told(-np.inf, np.inf), returns)  # no interval
    assert not holds_all(told(-5.0, 5.0), np.ones(9))  # all episodes earned the same
    wide = replace(told(1.9, 40.1), diagnostics={"holds_the_log": 1.0})
    assert doubts(wide) == [
        "The interval, 1.9 to 40.1, holds all that the log's episodes earned, from the worst to the best: the estimate says "
        "nothing of this policy."
    ]


def test_estimators_that_contradict_each_other() -> None:
    def told(name: str, low: float, high: float) -> Estimate:
        return Estimate(name, 0.0, low, high, 0.95, 0.99, np.zeros(50))

    one, other, third = told("FQE", 1.0, 2.0), told("ModelBased", 3.0, 4.0), told("DR", 1.5, 3.5)
    assert Ranked("policy", {"FQE": one, "DR": third}).doubts == []
    (said,) = Ranked("policy", {"FQE": one, "DR": third, "ModelBased": other}).doubts
    assert said == "FQE and ModelBased contradict each other: 1 to 2, and 3 to 4. At least one of them guesses."


@pytest.mark.parametrize(
    ("sign", "value", "granted"), [(1, 1.06, True), (1, 1.04, False), (-1, -0.94, True), (-1, -0.96, False)]
)
def test_the_margin_is_a_share_of_the_size(sign: int, value: float, granted: bool) -> None:
    """Also where returns are negative, as Pendulum's: better than -100 by 5% is -95."""
    data = replace(DATA, rewards=sign * np.ones(len(DATA), dtype=np.float32))
    assert behavior_value(data, 0.9) == pytest.approx(sign * 10)  # cut episodes go on as they were
    certificate = certify(Worth(10 * value), data, estimator=Told(gamma=0.9))
    assert certificate.granted is granted
    assert certificate.required == pytest.approx(10.5 if sign > 0 else -9.5)


def test_a_certificate_says_why_not() -> None:
    data = replace(DATA, rewards=np.ones(len(DATA), dtype=np.float32))

    def reasons(value: float, half: float) -> Certificate:
        return certify(Worth(value, half), data, estimator=Told(gamma=0.9))

    assert "below the 10.5 required" in reasons(10.0, 0.0).reasons[0]
    assert "lower bound" in reasons(11.0, 1.0).reasons[0]
    assert reasons(11.0, 0.4).granted
    few = replace(data, truncations=np.arange(len(data)) % 25 == 24)  # three long episodes
    assert "Only 3 episodes" in certify(Worth(99.0), few, estimator=Told(gamma=0.9)).reasons[0]
    with pytest.raises(ValueError, match="confidence"):
        certify(Worth(1), data, confidence=0.5, estimator=Told())


def test_doubts_name_what_speaks_against_an_estimate() -> None:
    fine = Estimate("FQE", 0.0, -1.0, 1.0, 0.95, 0.99, np.zeros(50), {"episodes": 50.0, "ood_share": 0.01})
    assert doubts(fine) == []
    for name, value in (("ood_share", 0.5), ("effective_episodes", 2.0), ("at_a_bound", 0.5), ("broken_share", 0.1)):
        assert len(doubts(replace(fine, diagnostics=fine.diagnostics | {name: value}))) == 1
