"""The minimisers of the deep losses, on one-hot critics with full batches, are the tabular solutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO, CQL, DROMO
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.tabular import combo_update, cql_h_update, cql_update, data_weight, dromo_update, strict_dromo_update
from tests.conformance.tables import SEED_DATA, TableNetworks, cql_noise, enumerate_policy, full_batch, minimise, with_robust
from tests.conftest import EQ_8

TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def float64() -> Any:
    th.set_default_dtype(th.float64)
    yield
    th.set_default_dtype(th.float32)


def make(algorithm: type, **options: Any) -> Any:
    equations = EQ_8 if issubclass(algorithm, COMBO) else {}
    return algorithm("MlpPolicy", dataset=SEED_DATA, device="cpu", seed=0, **(equations | options))


class Problem:
    """A random MDP's data in integer counts: d, rho = rho(s) pi(a|s), both policies with denominator 12."""

    n_states, n_actions = 4, 3

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.pi = 1 + rng.multinomial(9, [1 / 3] * 3, size=self.n_states)
        self.pi_beta = 1 + rng.multinomial(9, [1 / 3] * 3, size=self.n_states)
        real_states = 1 + rng.multinomial(6, [0.25] * 4)
        model_states = 1 + rng.multinomial(11, [0.25] * 4)
        self.real = real_states[:, None] * self.pi_beta  # rows of the batch
        self.model = model_states[:, None] * self.pi
        self.d, self.rho = self.real / self.real.sum(), self.model / self.model.sum()
        self.f = self.real.sum() / (self.real.sum() + self.model.sum())
        self.y_real, self.y_model = 3 * rng.normal(size=(2, self.n_states, self.n_actions))
        # the sampled loss weighs T~Q by w = f d/d_f, not by f
        w = self.f * self.d / (self.f * self.d + (1 - self.f) * self.rho)
        self.y = w * self.y_real + (1 - w) * self.y_model
        self.visits = rng.integers(1, 20, size=self.n_states)

    def batch(self, repeat: int = 1) -> Any:
        return full_batch(repeat * self.real, repeat * self.model, self.y_real, self.y_model)

    def noise(self, batch: Any) -> SACNoise:
        """Fresh actions of rho: pi enumerated at the model's states."""
        states = batch.observations[batch.n_real :]
        none = th.zeros(len(states), 0, 1)
        single = th.zeros(len(batch.rewards), 1, 1)
        return cql_noise(single, single, enumerate_policy(self.pi, states), none, none)


def test_sample_weights_by_hand() -> None:
    """d = .8, rho = .2, f = .5: w = .8."""
    problem = Problem(0)
    weight = data_weight(np.array([[0.8, 0.2]]), np.array([[0.2, 0.8]]), 0.5, target_weights="sample")
    assert weight[0, 0] == pytest.approx(0.8)
    # and it is what the TD loss alone converges to, wherever it starts
    batch = problem.batch()
    nets = TableNetworks(np.zeros((4, 3)))
    solution = minimise(make(COMBO, conservative_weight=0.0), nets, batch, problem.noise(batch))
    np.testing.assert_allclose(solution, problem.y, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_cql_expectation_is_eq_11(seed: int) -> None:
    """alpha (E_mu Q - E_pi_beta Q) + 1/2 (Q - y)^2: Q = y - alpha (mu/pi_beta - 1), mu = pi."""
    problem = Problem(seed)
    nothing = np.zeros_like(problem.real)
    batch = full_batch(problem.real, nothing, problem.y_real, problem.y_model)
    single, none = th.zeros(len(batch.rewards), 1, 1), th.zeros(len(batch.rewards), 0, 1)
    noise = cql_noise(single, single, enumerate_policy(problem.pi, batch.observations), none, none)
    model = make(CQL, conservative="expectation", conservative_weight=0.3)
    solution = minimise(model, TableNetworks(np.zeros((4, 3))), batch, noise)
    expected = cql_update(problem.y_real, problem.pi / 12, problem.pi_beta / 12, 0.3, subtract_behavior=True)
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


def test_cql_expectation_by_hand() -> None:
    """pi_beta = (.25, .75), mu = (.5, .5), alpha = .3, y = (1, 2): Q = (.4, 1.8) before the data term lifts both by .3."""
    real = np.array([[1, 3]])
    batch = full_batch(real, np.zeros_like(real), np.array([[1.0, 2.0]]), np.zeros((1, 2)))
    single, none = th.zeros(4, 1, 1), th.zeros(4, 0, 1)
    noise = cql_noise(single, single, enumerate_policy(np.array([[1, 1]]), batch.observations), none, none)
    model = make(CQL, conservative="expectation", conservative_weight=0.3)
    solution = minimise(model, TableNetworks(np.zeros((1, 2))), batch, noise)
    np.testing.assert_allclose(solution - 0.3, [[0.4, 1.8]], atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_cql_h(seed: int) -> None:
    """The log-mean-exp over 3N enumerated actions differs from logsumexp by a constant: same minimiser."""
    problem = Problem(seed)
    batch = full_batch(problem.real, np.zeros_like(problem.real), problem.y_real, problem.y_model)
    every = enumerate_policy(np.ones((4, 3), dtype=int), batch.observations)
    single = th.zeros(len(batch.rewards), 1, 1)
    model = make(CQL, conservative="logsumexp", conservative_weight=0.7)
    solution = minimise(model, TableNetworks(np.zeros((4, 3))), batch, cql_noise(single, single, every, every, every))
    expected = cql_h_update(problem.y_real, problem.pi_beta / 12, 0.7)
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


def test_cql_h_by_hand() -> None:
    """pi_beta = (1/2, 1/2), alpha = 1, y = +-(1 + tanh 1): q = +-1."""
    y = (1 + np.tanh(1.0)) * np.array([[1.0, -1.0]])
    batch = full_batch(np.array([[1, 1]]), np.array([[0, 0]]), y, y)
    every, single = enumerate_policy(np.array([[1, 1]]), batch.observations), th.zeros(2, 1, 1)
    model = make(CQL, conservative="logsumexp", conservative_weight=1.0)
    solution = minimise(model, TableNetworks(np.zeros((1, 2))), batch, cql_noise(single, single, every, every, every))
    np.testing.assert_allclose(solution, [[1.0, -1.0]], atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_cql_rho(seed: int) -> None:
    """log sum_a rho exp q = logsumexp(q + log rho): CQL(H)'s minimiser for y + log rho, less log rho; rho = pi."""
    problem = Problem(seed)
    batch = full_batch(problem.real, np.zeros_like(problem.real), problem.y_real, problem.y_model)
    single, none = th.zeros(len(batch.rewards), 1, 1), th.zeros(len(batch.rewards), 0, 1)
    noise = cql_noise(single, single, enumerate_policy(problem.pi, batch.observations), none, none)
    model = make(CQL, conservative="rho", conservative_weight=0.7)
    solution = minimise(model, TableNetworks(np.zeros((4, 3))), batch, noise)
    log_rho = np.log(problem.pi / 12)
    expected = cql_h_update(problem.y_real + log_rho, problem.pi_beta / 12, 0.7) - log_rho
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


def test_cql_rho_by_hand() -> None:
    """
    pi_beta = (1/2, 1/2), rho = (3/4, 1/4), alpha = 1. At q = (0, log 3) rho exp q = (3/4, 3/4), so mu = (1/2, 1/2) = pi_beta
    and y = q: a policy that already weighs what the data has costs nothing. At q = 0, mu = rho and
    y = q + alpha (mu - pi_beta)/pi_beta = (1/2, -1/2).
    """
    for q, y in (([0.0, np.log(3.0)], [0.0, np.log(3.0)]), ([0.0, 0.0], [0.5, -0.5])):
        targets = np.array([y])
        batch = full_batch(np.array([[1, 1]]), np.array([[0, 0]]), targets, targets)
        single, none = th.zeros(2, 1, 1), th.zeros(2, 0, 1)
        noise = cql_noise(single, single, enumerate_policy(np.array([[3, 1]]), batch.observations), none, none)
        model = make(CQL, conservative="rho", conservative_weight=1.0)
        solution = minimise(model, TableNetworks(np.zeros((1, 2))), batch, noise)
        np.testing.assert_allclose(solution, [q], atol=TOLERANCE)


def test_calibrated_by_hand() -> None:
    """
    Cal-QL's pi_beta (q - y - alpha) + alpha pi 1[q > V] = 0. pi_beta = (1/2, 1/2), pi = (3/4, 1/4), alpha = 1, y = (0, 4),
    V = 1.2: q_1 = 4 + 1 - 1/2 as in CQL, and q_0 = 0 + 1 < V is not pushed down (CQL: 0 + 1 - 3/2).
    """
    y = np.array([[0.0, 4.0]])
    batch = full_batch(np.array([[1, 1]]), np.array([[0, 0]]), y, y)
    single, none = th.zeros(2, 1, 1), th.zeros(2, 0, 1)
    noise = cql_noise(single, single, enumerate_policy(np.array([[3, 1]]), batch.observations), none, none)
    model = make(CQL, conservative="expectation", conservative_weight=1.0, calibrated=True)
    for returns, expected in ((1.2, [1.0, 4.5]), (-np.inf, [-0.5, 4.5])):  # no reference: CQL
        calibrated = batch._replace(returns=th.full((2,), returns))
        solution = minimise(model, TableNetworks(np.zeros((1, 2))), calibrated, noise)
        np.testing.assert_allclose(solution, [expected], atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_combo(seed: int) -> None:
    problem = Problem(seed)
    batch = problem.batch()
    nets = TableNetworks(np.zeros((4, 3)))
    solution = minimise(make(COMBO, conservative_weight=0.4), nets, batch, problem.noise(batch))
    expected = combo_update(problem.y, problem.d, problem.rho, problem.f, 0.4)
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_dromo(seed: int) -> None:
    """Eq 13, at weights below every state's collapse."""
    problem = Problem(seed)
    batch = problem.batch()
    combo_noise = problem.noise(batch)
    model = make(DROMO, robust_weight=0.5, conservative_weight=0.4, real_ratio=problem.f)
    # the estimator's correction for few samples falls as 1/N: enumerate each policy 200 times over
    noise = with_robust(
        combo_noise,
        enumerate_policy(200 * problem.pi_beta, batch.observations),
        enumerate_policy(200 * problem.pi, batch.observations),
    )
    pi_f = problem.f * problem.pi_beta / 12 + (1 - problem.f) * problem.pi / 12
    expected = dromo_update(problem.y, problem.d, problem.rho, problem.visits, pi_f, problem.f, 0.4, 0.5)
    nets = TableNetworks(combo_update(problem.y, problem.d, problem.rho, problem.f, 0.4), problem.visits)
    solution = minimise(model, nets, batch, noise)
    spread = np.sqrt((pi_f * (expected - (pi_f * expected).sum(1, keepdims=True)) ** 2).sum(1))
    assert spread.min() > 0.1  # not collapsed: the term is active and differentiable
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


def test_dromo_collapse() -> None:
    """Where alpha/sqrt(n) is large all actions get one value, up to the smoothing eps = 1e-3 std(Q)."""
    problem = Problem(0)
    batch = problem.batch()
    model = make(DROMO, robust_weight=50.0, conservative_weight=0.4, real_ratio=problem.f)
    noise = with_robust(
        problem.noise(batch),
        enumerate_policy(problem.pi_beta, batch.observations),
        enumerate_policy(problem.pi, batch.observations),
    )
    pi_f = problem.f * problem.pi_beta / 12 + (1 - problem.f) * problem.pi / 12
    expected = dromo_update(problem.y, problem.d, problem.rho, problem.visits, pi_f, problem.f, 0.4, 50.0)
    assert np.ptp(expected, axis=1).max() < 1e-9
    nets = TableNetworks(combo_update(problem.y, problem.d, problem.rho, problem.f, 0.4), problem.visits)
    solution = minimise(model, nets, batch, noise)
    assert np.ptp(solution, axis=1).max() < 5e-3
    found, _ = model.critic_loss(nets, batch, noise)
    exact, _ = model.critic_loss(TableNetworks(expected, problem.visits), batch, noise)
    assert float(exact.detach()) <= float(found.detach()) + 0.02  # the root of eps is all that the smoothing costs


@pytest.mark.parametrize("seed", range(3))
def test_strict_dromo(seed: int) -> None:
    """Eq 17; the batch is repeated so that Bessel's correction vanishes."""
    problem = Problem(seed)
    batch = problem.batch(repeat=200)
    model = make(DROMO, robust_weight=0.5, strict=True, conservative_weight=0.4, real_ratio=problem.f)
    nets = TableNetworks(np.zeros((4, 3)), visits=np.full(4, 3.0))
    nets.table.data += th.randn(1, 4, 3, generator=th.Generator().manual_seed(0))
    noise = problem.noise(batch)
    solution = minimise(model, nets, batch, noise)
    expected = strict_dromo_update(problem.y, problem.d, problem.rho, 3.0, problem.f, 0.4, 0.5)
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)
