"""The DROMO paper's one-line inequalities, linear and calibration claims, measured on random instances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sb3_offline.tabular.ambiguity import chi2_worst_case, cvar_worst_case
from sb3_offline.tabular.claims import ALPHA, SLACK, rate
from sb3_offline.tabular.dromo import dromo_update, policy_std, shrink_spread
from sb3_offline.tabular.islands import GAMMA, N_ACTIONS, N_STATES, draw
from sb3_offline.tabular.linear import LinearDromo
from sb3_offline.tabular.mdp import random_mdp, random_policy
from sb3_offline.tabular.operators import policy_evaluation


class Thm31(NamedTuple):
    """Violation rates of the two bounds, and how often the equality condition told wrongly."""

    printed: float
    corrected: float
    equality_wrong: float


def worst_case_bound(rng: np.random.Generator, n: int) -> Thm31:
    """Thm 3.1: sup over the ball against E + sqrt(r) E[Z^2] (as printed) and E + sqrt(r) sigma."""
    printed, corrected, wrong = 0, 0, 0
    for _ in range(n):
        z, p, radius = rng.uniform(size=4), rng.dirichlet(np.ones(4)), rng.uniform(0, 2)
        sup, mean = chi2_worst_case(z, p, radius), p @ z
        sigma = np.sqrt(p @ (z - mean) ** 2)
        gap = mean + np.sqrt(radius) * sigma - sup
        printed += sup > mean + np.sqrt(radius) * (p @ z**2) + SLACK
        corrected += gap < -SLACK
        wrong += (np.sqrt(radius) * (mean - z.min()) <= sigma) != (abs(gap) < SLACK)
    return Thm31(printed / n, corrected / n, wrong / n)


class ShareCost(NamedTuple):
    """How often the mean over a share q costs more than sqrt(1/q - 1) sigma, and the largest part of it that it costs."""

    broken: float
    largest: float


def share_cost(rng: np.random.Generator, n: int) -> ShareCost:
    """The mean over the share q of p's mass less E Z, against Eq 13's std at the radius 1/q - 1."""
    parts = []
    for _ in range(n):
        z, p, share = rng.uniform(size=4), rng.dirichlet(np.ones(4)), rng.uniform(0.05, 0.95)
        mean = p @ z
        parts.append((cvar_worst_case(z, p, share) - mean) / np.sqrt((1 / share - 1) * (p @ (z - mean) ** 2)))
    return ShareCost(float(np.mean(np.array(parts) > 1 + SLACK)), float(max(parts)))


def spread_residual(rng: np.random.Generator, n: int) -> float:
    """Remark 6.1, for D ~ p: |q_a - q_b| = (1 - alpha/(sqrt n sigma_z))_+ |z_a - z_b|; the largest residual."""
    z, p, counts = rng.normal(size=(n, 4)), rng.dirichlet(np.ones(4), n), rng.integers(1, 20, n)
    d = p / n
    q = dromo_update(z, d, d, counts, p, 0.5, 0.0, ALPHA)
    factor = np.maximum(1 - ALPHA / (np.sqrt(counts) * policy_std(z, p)), 0)
    pairwise = np.abs(q[:, :, None] - q[:, None, :]) - factor[:, None, None] * np.abs(z[:, :, None] - z[:, None, :])
    return float(np.abs(pairwise).max())


def simulation_lemma(rng: np.random.Generator, n: int) -> float:
    """
    The simulation lemma, |J(M^) - J(M)| <= sup_s [|r^_pi - r_pi| + gamma R_max/(1-gamma) |P^_pi - P_pi|_1]/(1-gamma);
    violation rate.
    """
    violated = 0
    for _ in range(n):
        true, model = (random_mdp(rng, N_STATES, N_ACTIONS, GAMMA) for _ in range(2))
        policy = random_policy(rng, N_STATES, N_ACTIONS)
        start = true.initial[:, None] * policy
        error = abs((start * (policy_evaluation(model, policy) - policy_evaluation(true, policy))).sum())
        reward_error = np.abs((policy * (model.rewards - true.rewards)).sum(axis=1))
        kernel_error = np.abs(np.einsum("sa,sat->st", policy, model.kernel - true.kernel)).sum(axis=1)
        violated += error > (reward_error + GAMMA / (1 - GAMMA) * kernel_error).max() / (1 - GAMMA) + SLACK
    return violated / n


class Thm45(NamedTuple):
    """Thm 4.5 on tables (F = I): how often (*) < 0 and C_Var < 0, and how often the corrected beta* told wrongly."""

    star_negative: float
    variance_negative: float
    threshold_wrong: float


def linear_lower_bound(rng: np.random.Generator, n: int) -> Thm45:
    """Thm 4.5's sign claims, and both sides of the corrected beta* for a constant and 4 random features."""
    star, variance, wrong = list[bool](), list[bool](), list[bool]()
    for islands in draw(rng, n):
        q, d_f = islands.true_q, islands.d_f
        star.extend(islands.total(islands.start * islands.g / d_f) < 0)
        variance.extend(islands.total(islands.start * q) < islands.total(d_f * q))
        for k in range(islands.n_islands):
            d, rho, start, y = (
                x.reshape(islands.n_islands, -1)[k] * islands.n_islands
                for x in (islands.problem.d, islands.rho, islands.start, q / islands.n_islands)
            )
            features, omega = np.column_stack([np.ones(d.size), rng.normal(size=(d.size, 4))]), rng.normal(size=5)
            f, n_data = islands.problem.real_ratio, 100
            linear = LinearDromo(features, d, rho, f, 0.0, ALPHA, n_data)
            if start @ features @ np.linalg.solve(linear.mass, features.T @ linear.g) <= 1e-3:
                continue
            threshold = linear.lower_bound_weight(start, y, y, omega)
            if threshold > 1e-3:
                updates = (
                    LinearDromo(features, d, rho, f, threshold + step, ALPHA, n_data).lagged_update(y, omega)
                    for step in (-1e-4, 1e-4)
                )
                below, above = (float(start @ (features @ w - y)) for w in updates)
                wrong.append(below <= 0 or above >= 0)
    return Thm45(rate(star), rate(variance), rate(wrong))


def calibration_bound(rng: np.random.Generator, n: int) -> tuple[float, float]:
    """Theorem A.2: violation rates of |J - J^| <= gamma R_max/(1-gamma) CE (printed) and /(1-gamma)^2 (corrected)."""
    printed, corrected = 0, 0
    for _ in range(n):
        kernel, model = rng.dirichlet(np.full(3, 0.3), 3), rng.dirichlet(np.full(3, 0.3), 3)
        rewards = rng.uniform(-1, 1, 3)
        stationary = np.linalg.lstsq(np.vstack([kernel.T - np.eye(3), np.ones(3)]), np.eye(4)[3], rcond=None)[0]
        error = stationary @ np.abs(kernel - model).sum(axis=1)
        values = (np.linalg.solve(np.eye(3) - GAMMA * p, rewards) for p in (kernel, model))
        j, j_model = (float(stationary @ v) for v in values)
        scale = GAMMA * np.abs(rewards).max() * error / (1 - GAMMA)
        printed += abs(j - j_model) > scale + SLACK
        corrected += abs(j - j_model) > scale / (1 - GAMMA) + SLACK
    return printed / n, corrected / n


def sup_norm_lipschitz(rng: np.random.Generator, n: int, n_actions: int) -> float:
    """The largest sup-norm Lipschitz constant (the Jacobian's) of DROMO's exact update among n random states."""
    weight, p = (rng.dirichlet(np.full(n_actions, 0.5), n) + 1e-4 for _ in range(2))
    p /= p.sum(axis=1, keepdims=True)
    z = rng.normal(size=(n, n_actions))
    mean = (weight * z).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
    kappa = rng.uniform(0, 1, n) * np.sqrt(((weight * (z - mean)) ** 2 / p).sum(axis=1))
    q = shrink_spread(z, weight, p, kappa)
    sigma = policy_std(q, p)[:, None, None]
    pull = p * (q - (p * q).sum(axis=1, keepdims=True))
    eye = np.eye(n_actions)
    # d^2 sigma/dq^2, and dq/dz = (D + kappa d^2 sigma)^{-1} D
    hessian = (p[:, :, None] * eye - p[:, :, None] * p[:, None, :]) / sigma - pull[:, :, None] * pull[:, None, :] / sigma**3
    diagonal = weight[:, :, None] * eye
    jacobian = np.linalg.solve(diagonal + kappa[:, None, None] * hessian, diagonal)
    return float(np.abs(jacobian).sum(axis=2).max())
