"""The minimisers of the discrete losses are the tabular solutions: sums over actions are exact, and so is the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_offline import DiscreteCOMBO, DiscreteCQL, DiscreteDROMO, load_dataset
from sb3_offline.networks.networks import Batch
from sb3_offline.tabular import combo_update, cql_h_update, cql_update, dromo_update, strict_dromo_update
from tests.conformance.tables import SEED_DATA, full_batch, minimise
from tests.conformance.test_conformance import Problem, float64  # noqa: F401  (a fixture)
from tests.conftest import EQ_8

TOLERANCE = 1e-5


class TabularPolicyNetworks:
    """Q is a table (1, S, A); pi and pi_beta are given. Every row is terminal and its reward is y, so Q' is never used."""

    def __init__(self, start: np.ndarray, problem: Problem, visits: np.ndarray | None = None):
        self.table = th.tensor(start[None], dtype=th.float64, requires_grad=True)
        self.pi, self.pi_beta = th.tensor(problem.pi / 12), th.tensor(problem.pi_beta / 12)
        self.counts = th.tensor(problem.visits if visits is None else visits, dtype=th.float64)

    def q(self, observations: th.Tensor) -> th.Tensor:
        return self.table[:, observations[:, 0].long()]

    def q_target(self, observations: th.Tensor) -> th.Tensor:
        return self.q(observations).detach()

    def policy(self, observations: th.Tensor) -> th.Tensor:
        return self.pi[observations[:, 0].long()]

    def behavior(self, observations: th.Tensor) -> th.Tensor:
        return self.pi_beta[observations[:, 0].long()]

    def visits(self, observations: th.Tensor) -> th.Tensor:
        return self.counts[observations[:, 0].long()]


def make(algorithm: type, **options: Any) -> Any:
    arrays = {name: getattr(SEED_DATA, name) for name in ("observations", "rewards", "next_observations", "terminations")}
    arrays |= {"actions": np.array([0, 1, 2, 0]), "truncations": np.zeros(4, dtype=bool)}
    dataset = load_dataset(arrays, observation_space=SEED_DATA.observation_space, action_space=spaces.Discrete(3))
    return algorithm("MlpPolicy", dataset=dataset, device="cpu", seed=0, **options)


def whole(problem: Problem, model_rows: bool = True, repeat: int = 1) -> Batch:
    model = problem.model if model_rows else np.zeros_like(problem.model)
    batch = full_batch(repeat * problem.real, repeat * model, problem.y_real, problem.y_model)
    return batch._replace(actions=batch.actions.long())


def spread(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.sqrt((p * (q - (p * q).sum(1, keepdims=True)) ** 2).sum(1))


@pytest.mark.parametrize("seed", range(3))
def test_cql_h(seed: int) -> None:
    """A2, with log sum_a exp Q itself."""
    problem = Problem(seed)
    nets = TabularPolicyNetworks(np.zeros((4, 3)), problem)
    solution = minimise(make(DiscreteCQL, conservative_weight=0.7), nets, whole(problem, False), None)
    np.testing.assert_allclose(solution, cql_h_update(problem.y_real, problem.pi_beta / 12, 0.7), atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_cql_expectation_is_eq_11(seed: int) -> None:
    problem = Problem(seed)
    nets = TabularPolicyNetworks(np.zeros((4, 3)), problem)
    model = make(DiscreteCQL, conservative="expectation", conservative_weight=0.3)
    solution = minimise(model, nets, whole(problem, False), None)
    expected = cql_update(problem.y_real, problem.pi / 12, problem.pi_beta / 12, 0.3, subtract_behavior=True)
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_combo(seed: int) -> None:
    """A3: y - beta g/d_f."""
    problem = Problem(seed)
    nets = TabularPolicyNetworks(np.zeros((4, 3)), problem)
    solution = minimise(make(DiscreteCOMBO, conservative_weight=0.4, **EQ_8), nets, whole(problem), None)
    expected = combo_update(problem.y, problem.d, problem.rho, problem.f, 0.4)
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_dromo(seed: int) -> None:
    """A4, at weights below every state's collapse; the smoothing of the root is what is left of a difference."""
    problem = Problem(seed)
    pi_f = problem.f * problem.pi_beta / 12 + (1 - problem.f) * problem.pi / 12
    expected = dromo_update(problem.y, problem.d, problem.rho, problem.visits, pi_f, problem.f, 0.4, 0.5)
    assert spread(expected, pi_f).min() > 0.1
    nets = TabularPolicyNetworks(combo_update(problem.y, problem.d, problem.rho, problem.f, 0.4), problem)
    model = make(DiscreteDROMO, robust_weight=0.5, conservative_weight=0.4, real_ratio=problem.f, **EQ_8)
    solution = minimise(model, nets, whole(problem), None)
    np.testing.assert_allclose(solution, expected, atol=1e-4)


def test_dromo_collapse() -> None:
    """Where alpha/sqrt(n) is large all actions get one value, up to the smoothing eps = 1e-3 std(Q)."""
    problem = Problem(0)
    model = make(DiscreteDROMO, robust_weight=50.0, conservative_weight=0.4, real_ratio=problem.f, **EQ_8)
    nets = TabularPolicyNetworks(combo_update(problem.y, problem.d, problem.rho, problem.f, 0.4), problem)
    solution = minimise(model, nets, whole(problem), None)
    assert np.ptp(solution, axis=1).max() < 5e-3


@pytest.mark.parametrize("seed", range(3))
def test_strict_dromo(seed: int) -> None:
    """A6; the batch is repeated so that Bessel's correction vanishes."""
    problem = Problem(seed)
    nets = TabularPolicyNetworks(problem.y, problem, visits=np.full(4, 3.0))
    model = make(DiscreteDROMO, robust_weight=0.5, strict=True, conservative_weight=0.4, real_ratio=problem.f, **EQ_8)
    solution = minimise(model, nets, whole(problem, repeat=200), None)
    expected = strict_dromo_update(problem.y, problem.d, problem.rho, 3.0, problem.f, 0.4, 0.5)
    np.testing.assert_allclose(solution, expected, atol=1e-4)
