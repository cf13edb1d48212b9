"""DROMO's robustness sets against the tabular layer: on one-hot critics and linear Q."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import COMBO, DROMO
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.tabular import combo_update, cvar_update, dromo_update
from sb3_offline.tabular.ambiguity import chi2_worst_case, cvar_worst_case
from tests.conformance.tables import TableNetworks, enumerate_policy, minimise, with_robust
from tests.conformance.test_conformance import TOLERANCE, Problem, float64, make  # noqa: F401


class LinearTable(TableNetworks):
    """Q = F w over the states and actions of a finite problem; ``table`` is F w, differentiable in w."""

    def __init__(self, features: np.ndarray, weights: np.ndarray, visits: np.ndarray):
        super().__init__(features @ weights, visits)
        self.weights = th.tensor(weights, requires_grad=True)
        self.table = (th.tensor(features) @ self.weights).unsqueeze(0)


def chi2_noise(problem: Problem, batch: Any) -> SACNoise:
    return with_robust(
        problem.noise(batch),
        enumerate_policy(problem.pi_beta, batch.observations),
        enumerate_policy(problem.pi, batch.observations),
    )


def chi2_model(problem: Problem, radius: float, beta: float = 0.4) -> DROMO:
    return make(DROMO, robustness={"kind": "chi2", "radius": radius}, conservative_weight=beta, real_ratio=problem.f)


def cvar_model(problem: Problem, share: float, beta: float = 0.4) -> DROMO:
    return make(DROMO, robustness={"kind": "cvar", "share": share}, conservative_weight=beta, real_ratio=problem.f)


@pytest.mark.parametrize("seed", range(3))
def test_chi2_unclipped_has_the_minimiser_of_eq_13(seed: int) -> None:
    """alpha = beta sqrt(radius): the ball's minimiser on one-hot critics is A4's, where no action is left out."""
    problem = Problem(seed)
    batch, radius = problem.batch(), 0.2
    pi_f = problem.f * problem.pi_beta / 12 + (1 - problem.f) * problem.pi / 12
    alpha = 0.4 * radius**0.5
    expected = dromo_update(problem.y, problem.d, problem.rho, problem.visits, pi_f, problem.f, 0.4, alpha)
    mean = (pi_f * expected).sum(1, keepdims=True)
    std = np.sqrt((pi_f * (expected - mean) ** 2).sum(1, keepdims=True))
    ball = np.sqrt(radius / problem.visits[:, None])
    assert (ball * (mean - expected.min(1, keepdims=True)) <= std).all()  # Thm 3.1's condition of equality
    nets = TableNetworks(combo_update(problem.y, problem.d, problem.rho, problem.f, 0.4), problem.visits)
    solution = minimise(chi2_model(problem, radius), nets, batch, chi2_noise(problem, batch))
    np.testing.assert_allclose(solution, expected, atol=TOLERANCE)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
@pytest.mark.parametrize("seed", range(2))
def test_cvar_has_the_minimiser_of_the_table(seed: int, share: float) -> None:
    """On one-hot critics; with a small beta the actions' values stay apart, so that the descent meets no kink."""
    problem = Problem(seed)
    batch, pi_f = problem.batch(), problem.f * problem.pi_beta / 12 + (1 - problem.f) * problem.pi / 12
    combo = combo_update(problem.y, problem.d, problem.rho, problem.f, 0.01)
    expected = cvar_update(problem.y, problem.d, problem.rho, pi_f, problem.f, 0.01, share)
    assert np.abs(expected - combo).max() > 5e-4
    assert np.diff(np.sort(expected, axis=1), axis=1).min() > 1e-3
    model = cvar_model(problem, share, 0.01)
    solution = minimise(model, TableNetworks(combo), batch, chi2_noise(problem, batch))
    np.testing.assert_allclose(solution, expected, atol=1e-6)


@pytest.mark.parametrize(("seed", "share"), [(0, 0.9), (1, 0.3), (1, 0.05), (2, 0.3)])
def test_cvar_at_a_kink_is_no_worse_than_all_around(seed: int, share: float) -> None:
    """With a larger beta actions meet. The loss is strictly convex, so that a point with nothing lower near it is the one."""
    problem, rng = Problem(seed), np.random.default_rng(0)
    batch, pi_f = problem.batch(), problem.f * problem.pi_beta / 12 + (1 - problem.f) * problem.pi / 12
    expected = cvar_update(problem.y, problem.d, problem.rho, pi_f, problem.f, 0.4, share)
    assert np.diff(np.sort(expected, axis=1), axis=1).min() < 1e-12
    model, noise = cvar_model(problem, share), chi2_noise(problem, batch)

    def loss(table: np.ndarray) -> float:
        return float(model.critic_loss(TableNetworks(table), batch, noise)[0].detach())

    least = loss(expected)
    for scale in (1e-1, 1e-2, 1e-3, 1e-4):
        steps = scale * rng.normal(size=(50, 4, 3)) * (rng.random(size=(50, 4, 3)) < 0.3)
        assert min(loss(expected + step) for step in steps) > least - 1e-12
    assert loss(expected + 0.01 * (problem.y - expected)) > least


@pytest.mark.parametrize(
    ("kind", "size"), [("chi2", 0.3), ("chi2", 3.0), ("chi2", 30.0), ("cvar", 0.9), ("cvar", 0.3), ("cvar", 0.05)]
)
@pytest.mark.parametrize("seed", range(2))
def test_worst_case_for_linear_q(seed: int, kind: str, size: float) -> None:
    """The loss exceeds COMBO's by beta E_{s ~ d_f} (sup - E), and its gradient in w is the oracle's, clipped or not."""
    problem, rng = Problem(seed), np.random.default_rng(seed)
    batch, features, weights = problem.batch(), rng.normal(size=(4, 3, 5)), rng.normal(size=5)
    pi_f = problem.f * problem.pi_beta / 12 + (1 - problem.f) * problem.pi / 12
    states = (problem.real + problem.model).sum(1) / (problem.real + problem.model).sum()

    def excess(w: np.ndarray) -> float:
        q = features @ w
        if kind == "chi2":
            worst = [chi2_worst_case(q[s], pi_f[s], size / problem.visits[s]) for s in range(4)]
        else:
            worst = [cvar_worst_case(q[s], pi_f[s], size) for s in range(4)]
        return float(0.4 * states @ (np.array(worst) - (pi_f * q).sum(axis=1)))

    def gradient_of(model: Any, noise: Any) -> tuple[float, np.ndarray]:
        nets = LinearTable(features, weights, problem.visits)
        loss, _ = model.critic_loss(nets, batch, noise)
        return float(loss.detach()), th.autograd.grad(loss, nets.weights)[0].numpy()

    loss, gradient = gradient_of({"chi2": chi2_model, "cvar": cvar_model}[kind](problem, size), chi2_noise(problem, batch))
    combo = make(COMBO, conservative_weight=0.4, real_ratio=problem.f)
    combo_loss, combo_gradient = gradient_of(combo, problem.noise(batch))
    assert loss - combo_loss == pytest.approx(excess(weights), abs=1e-8)
    steps = 1e-5 * np.eye(5)
    differences = [(excess(weights + step) - excess(weights - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient - combo_gradient, differences, atol=TOLERANCE)


class LinearQ:
    """Q(s, a) = w . (s, a) over real numbers, rows of a batch beside their actions."""

    def __init__(self, weights: np.ndarray):
        self.weights = th.tensor(weights, requires_grad=True)
        self.observation_scale = th.ones(1)

    def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return (self.weights[0] * observations[:, None, 0] + self.weights[1] * actions[..., 0]).unsqueeze(0)

    q_target = q

    def sample(self, observations: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return noise, th.zeros(noise.shape[:2])


def test_wasserstein_for_linear_q() -> None:
    """COMBO's loss with E_rho Q replaced by its sup over W2 <= eps, E_rho Q + eps |w|; its gradient by beta eps w/|w|."""
    problem = Problem(0)
    batch, weights = problem.batch(), np.array([1.5, -0.8])
    noise = problem.noise(batch)
    combo = make(COMBO, conservative_weight=0.4)
    dromo = make(DROMO, robustness={"kind": "wasserstein", "radius": 0.25}, conservative_weight=0.4)
    found = []
    for model in (combo, dromo):
        nets = LinearQ(weights)
        loss, _ = model.critic_loss(nets, batch, noise)
        found.append((float(loss.detach()), th.autograd.grad(loss, nets.weights)[0].numpy()))
    norm = np.linalg.norm(weights)
    assert norm == pytest.approx(1.7)
    assert found[1][0] - found[0][0] == pytest.approx(0.4 * 0.25 * 1.7, abs=1e-10)
    np.testing.assert_allclose(found[1][1] - found[0][1], 0.4 * 0.25 * weights / norm, atol=1e-10)
    # and no other displacement of mean square eps^2 moves E_rho Q further
    displacements = np.random.default_rng(0).normal(size=(500, 20, 2))
    displacements *= 0.25 / np.sqrt((displacements**2).sum(-1).mean(-1))[:, None, None]
    assert (displacements @ weights).mean(-1).max() < 0.25 * norm


@pytest.mark.parametrize("seed", range(2))
def test_combo_on_mixed_states(seed: int) -> None:
    """penalty_states="mix": rho' = d_f(s) pi(a|s) in the place of rho, so Q = y - beta (rho' - d)/d_f."""
    problem = Problem(seed)
    batch = problem.batch()
    d_f = problem.f * problem.d + (1 - problem.f) * problem.rho
    pushed_down = d_f.sum(1, keepdims=True) * problem.pi / 12
    own = problem.noise(batch)
    enumerated = replace(own.terms["conservative"], policy=enumerate_policy(problem.pi, batch.observations))
    noise = replace(own, terms={"conservative": enumerated})
    model = make(COMBO, conservative_weight=0.4, penalty_states="mix")
    solution = minimise(model, TableNetworks(np.zeros((4, 3))), batch, noise)
    np.testing.assert_allclose(solution, problem.y - 0.4 * (pushed_down - problem.d) / d_f, atol=TOLERANCE)
