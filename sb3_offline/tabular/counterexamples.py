"""Small cases that settle a claim by arithmetic: each function returns the numbers, computed with this package."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sb3_offline.tabular.ambiguity import chi2_worst_case
from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.dromo import dromo_objective, lemma_factor, shrink_spread
from sb3_offline.tabular.iteration import FixedPoint, OfflineProblem, combo_rule, dromo_rule, evaluate, fixed_point
from sb3_offline.tabular.linear import LinearDromo, lstd_q, projected_fqi_update
from sb3_offline.tabular.mdp import FiniteMDP
from sb3_offline.tabular.operators import occupancy, policy_evaluation
from sb3_offline.tabular.updates import mixture


class WorstCase(NamedTuple):
    printed: float
    true: float


def worst_case() -> WorstCase:
    """Thm 3.1: Z uniform on {0, .2}, r = .25. Printed bound .11, supremum .15 = E + sqrt(r) sigma."""
    z, p, radius = np.array([0.0, 0.2]), np.array([0.5, 0.5]), 0.25
    return WorstCase(float(p @ z + np.sqrt(radius) * (p @ z**2)), chi2_worst_case(z, p, radius))


class StdGradient(NamedTuple):
    exact: Array
    printed: Array


def std_gradient() -> StdGradient:
    """Lemma 4.1's first error: d sigma/d q_a = p_a (q_a - V)/sigma, not p_a (1 - p_a) q_a/sigma; at q = (1, 3)."""
    p, q = np.array([0.5, 0.5]), np.array([1.0, 3.0])
    value = p @ q
    sigma = np.sqrt(p @ (q - value) ** 2)
    return StdGradient(p * (q - value) / sigma, p * (1 - p) * q / sigma)


class Conditional(NamedTuple):
    joint: Array
    product: Array


def conditional() -> Conditional:
    """Lemma 4.1's second error: d_f(s,a) = (.4, .1) is not d_f(s) pi^f(a|s) = (.25, .25) where d(s) != rho(s)."""
    pi_beta, pi, f = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), 0.5
    d_f = mixture(0.8 * pi_beta, 0.2 * pi, f)
    return Conditional(d_f[0], (d_f.sum() * mixture(pi_beta, pi, f))[0])


class Lemma41(NamedTuple):
    true_q: Array
    lemma_q: Array
    factor: float
    printed_bound: float
    exact_q: Array
    lemma_moves: float
    exact_moves: float
    objective_exact: float
    objective_nothing: float
    objective_lemma: float


def lemma_41() -> Lemma41:
    """
    Lemma 4.1 and Thm 4.2: one state, rewards (-1, -3), gamma .5, pi = pi_beta = (1/2, 1/2), alpha 1, n 4.

    Q^pi = (-3, -5); the lemma's fixed point (-1.65, -3.15) has c = .75 and lies above Q^pi and above c Q^pi = -2.25;
    Eq 13's is (-3.5, -4.5). With 10 added to the rewards the lemma moves by 12, Eq 13 by 20 = 10/(1 - gamma).
    """
    half, n, alpha = np.array([[0.5, 0.5]]), np.array([4.0]), 1.0

    def solve(shift: float) -> tuple[Array, Array, Array]:
        mdp = FiniteMDP(np.ones((1, 2, 1)), np.array([[-1.0, -3.0]]) + shift, 0.5, np.ones(1))
        problem = OfflineProblem(mdp, mdp, half, half, n, real_ratio=0.5)
        true = policy_evaluation(mdp, half)
        lemma = evaluate(problem, dromo_rule(0.0, alpha, "paper"), half, true).q
        return true, lemma, evaluate(problem, dromo_rule(0.0, alpha), half, true).q

    true, lemma, exact = solve(0.0)
    _, lemma_up, exact_up = solve(10.0)
    # One update of z = (-3, -5) with kappa = alpha d_f(s)/sqrt(n) = .5; the lemma with the std of its own result.
    kappa = np.array([0.5])
    own = fixed_point(lambda q: lemma_factor(q, half, n, alpha) * true, true).q
    best = shrink_spread(true, half, half, kappa)
    objective = [float(dromo_objective(q, true, half, half, kappa)[0]) for q in (best, true, own)]
    factor = float(lemma_factor(lemma, half, n, alpha)[0, 0])
    return Lemma41(
        true_q=true[0],
        lemma_q=lemma[0],
        factor=factor,
        printed_bound=factor * float(true[0, 0]),
        exact_q=exact[0],
        lemma_moves=float((lemma_up - lemma)[0, 0]),
        exact_moves=float((exact_up - exact)[0, 0]),
        objective_exact=objective[0],
        objective_nothing=objective[1],
        objective_lemma=objective[2],
    )


def lemma_from_zero() -> FixedPoint:
    """Lemma 4.1 started from Q = 0, whose spread is 0, has c = 0: it stays at 0 for ever, whatever the rewards."""
    half = np.array([[0.5, 0.5]])
    mdp = FiniteMDP(np.ones((1, 2, 1)), np.array([[-1.0, -3.0]]), 0.5, np.ones(1))
    return evaluate(OfflineProblem(mdp, mdp, half, half, np.array([4.0]), 0.5), dromo_rule(0.0, 1.0, "paper"), half)


class Bounds(NamedTuple):
    value: float
    naive: float
    corrected: float


def combo_range() -> Bounds:
    """COMBO leaves |Q| <= R_max/(1-gamma) = 10: here -12, the bound (R_max + beta max(1/f, 1/(1-f)))/(1-gamma)."""
    mdp = FiniteMDP(np.ones((1, 2, 1)), -np.ones((1, 2)), 0.9, np.ones(1))
    pi, pi_beta, beta, f = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), 0.1, 0.5
    q = evaluate(OfflineProblem(mdp, mdp, pi_beta, pi_beta, np.ones(1), f), combo_rule(beta), pi).q
    return Bounds(float(q[0, 1]), 1 / (1 - 0.9), (1 + beta * max(1 / f, 1 / (1 - f))) / (1 - 0.9))


def gap_at_fixed_point(beta: float = 1.0) -> float:
    """
    Thm 4.4 "at any k": 1->3, 3->3, 2->4, 4->4, rho = (.9, 0, 0, .1), d = (0, .9, .1, 0), f = .5, gamma = .9.

    The change of (d - rho).Q that COMBO's fixed point makes: -24.8 beta, for every beta, so no beta is large enough.
    """
    kernel = np.eye(4)[[2, 3, 2, 3]][:, None, :]
    mdp = FiniteMDP(kernel, np.zeros((4, 1)), 0.9, np.full(4, 0.25))
    d, rho = np.array([[0.0], [0.9], [0.1], [0.0]]), np.array([[0.9], [0.0], [0.0], [0.1]])
    problem = OfflineProblem(mdp, mdp, d, np.ones((4, 1)), np.ones(4), real_ratio=0.5)
    rule = combo_rule(beta)
    q = fixed_point(lambda x: rule(problem, x, np.ones((4, 1)), rho), np.zeros((4, 1))).q
    return float(((d - rho) * q).sum())


def constant_q_spreads() -> Array:
    """Remark 6.1: z = (1, 1), so kappa_Q = 0; pi^f = (.8, .2), sigma .2, alpha 1, n 25: Q+ = c z = (.833, .556)."""
    pi_f, lagged = np.array([[0.8, 0.2]]), np.array([[0.0, 0.5]])
    return lemma_factor(lagged, pi_f, np.array([25.0]), 1.0)[0]


class Lagged(NamedTuple):
    lagged: float
    exact: float


def lagged_objective() -> Lagged:
    """The linear lagged update, one step from omega = (2, 1), reaches a higher objective than the exact minimiser."""
    features = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    linear = LinearDromo(features, [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 0.5, 0.1, 1.0, n=4)
    target = np.array([1.0, 2.0, 0.0])
    step = linear.lagged_update(target, np.array([2.0, 1.0]))
    return Lagged(linear.objective(target, step), linear.objective(target, linear.exact_update(target)))


def negative_star() -> float:
    """
    Thm 4.5: (*) = (mu pi)^T D_f^{-1} (rho - d) < 0, so that a larger beta raises the estimate.

    Start, where one stays or leaves for good: pi stays with probability .5, pi_beta with .9; gamma .9, f .5.
    """
    kernel = np.zeros((2, 2, 2))
    kernel[0, 0, 0] = kernel[0, 1, 1] = kernel[1, :, 1] = 1
    mdp = FiniteMDP(kernel, np.zeros((2, 2)), 0.9, np.array([1.0, 0.0]))
    pi, pi_beta = np.full((2, 2), 0.5), np.array([[0.9, 0.1], [0.5, 0.5]])
    d, rho = occupancy(mdp, pi_beta), occupancy(mdp, pi)
    return float((mdp.initial[:, None] * pi * (rho - d) / mixture(d, rho, 0.5)).sum())


class Divergence(NamedTuple):
    fqi_factor: float
    lstd_a: float


def fqi_divergence(gamma: float) -> Divergence:
    """Tsitsiklis and Van Roy: F = (1, 2)^T, both states -> 2, D = I/2. FQI multiplies omega by 6 gamma/5 a sweep."""
    features, following, weights = np.array([[1.0], [2.0]]), np.array([[2.0], [2.0]]), np.array([0.5, 0.5])
    factor = projected_fqi_update(features, gamma * following[:, 0], weights)[0]
    # With r = F (so F^T D r = 2.5) the solution is 2.5/A.
    a = 2.5 / lstd_q(features, following, features[:, 0], weights, gamma).omega[0]
    return Divergence(float(factor), float(a))


class Calibration(NamedTuple):
    true_return: float
    model_return: float
    error: float
    printed_bound: float
    corrected_bound: float


def calibration() -> Calibration:
    """Theorem A.2: J = 0, J^ = 90/19 = 4.737, calibration error .1; printed bound .9, with the missing 1/(1-gamma) 9."""
    gamma, rewards = 0.9, np.array([[1.0], [-1.0]])
    kernels = (np.array([[0.95, 0.05], [0.05, 0.95]]), np.array([[1.0, 0.0], [0.1, 0.9]]))
    stationary, one = np.array([0.5, 0.5]), np.ones((2, 1))
    true, model = (FiniteMDP(kernel[:, None, :], rewards, gamma, stationary) for kernel in kernels)
    error = float(stationary @ np.abs(kernels[0] - kernels[1]).sum(axis=1))
    j, j_model = (float(stationary @ policy_evaluation(mdp, one)[:, 0]) for mdp in (true, model))
    return Calibration(j, j_model, error, gamma * error / (1 - gamma), gamma * error / (1 - gamma) ** 2)
