"""Claims of the DROMO paper's assumptions and appendices: what they need, and the cases that break them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.claims import ALPHA, SLACK, rate, value_gap_terms
from sb3_offline.tabular.dromo import policy_std
from sb3_offline.tabular.islands import GAMMA, N_ACTIONS, N_STATES, TRANSITIONS, draw
from sb3_offline.tabular.iteration import OfflineProblem, dromo_rule, evaluate
from sb3_offline.tabular.mdp import FiniteMDP
from sb3_offline.tabular.operators import occupancy, policy_evaluation
from sb3_offline.tabular.updates import mixture


class SamplingError(NamedTuple):
    """How often any pair breaks Assumption 2.1 with Hoeffding's and Weissman's constants, by how the rows came."""

    independent: float
    copied: float


def sampling_error(rng: np.random.Generator, n: int, delta: float = 0.05, rows: int = 50, copies: int = 20) -> SamplingError:
    """
    Assumption 2.1: |r - r~| <= C_r/sqrt(n(s,a)) and |P - P~|_1 <= C_P/sqrt(n(s,a)) at all pairs, with probability 1 - delta.

    For rewards in [0, 1] and independent rows C_r = sqrt(log(4 S A/delta)/2) (Hoeffding) and C_P = sqrt(2 S log 2 +
    2 log(2 S A/delta)) (Weissman et al. 2003) do, by a union over the pairs. ``copied`` counts each of ``rows`` rows
    ``copies`` times, as data merged twice or augmented does: n(s,a) then promises what is not there.
    """
    pairs = N_STATES * N_ACTIONS
    c_reward = np.sqrt(np.log(4 * pairs / delta) / 2)
    c_kernel = np.sqrt(2 * N_STATES * np.log(2) + 2 * np.log(2 * pairs / delta))
    broken = []
    for _ in range(n):
        kernel, mean = rng.dirichlet(np.ones(N_STATES), pairs), rng.uniform(size=pairs)
        reward_error = np.abs(rng.binomial(rows, mean) / rows - mean)
        kernel_error = np.abs(rng.multinomial(rows, kernel) / rows - kernel).sum(axis=1)
        broken.append(
            [
                (np.sqrt(m) * reward_error > c_reward).any() or (np.sqrt(m) * kernel_error > c_kernel).any()
                for m in (rows, rows * copies)
            ]
        )
    independent, copied = np.mean(broken, axis=0)
    return SamplingError(float(independent), float(copied))


class VarianceFloor(NamedTuple):
    deterministic: float
    constant: float


def variance_floor() -> VarianceFloor:
    """Assumption C.1, Var_{pi^f} Q >= 1/kappa > 0 for every Q: it is 0 for pi^f = (1, 0), and for any pi^f if Q = (3, 3)."""
    deterministic = policy_std(np.array([[5.0, -7.0]]), np.array([[1.0, 0.0]]))
    constant = policy_std(np.array([[3.0, 3.0]]), np.array([[0.5, 0.5]]))
    return VarianceFloor(float(deterministic[0] ** 2), float(constant[0] ** 2))


class LemmaC4(NamedTuple):
    """E_rho[lambda/sqrt(Var n(s))] over the bound, at most, for four readings of the bracket; how often each is broken."""

    supremum: float
    root_mean_square: float
    rho_average_broken: float
    minimum_broken: float


def lemma_c4(rng: np.random.Generator, n: int) -> LemmaC4:
    """
    Lemma C.4: E_rho[lambda/sqrt(Var n(s))] <= alpha B sqrt(kappa S (D_CQL + 1)/|D|), B(s) = 1 - |pi|_2^2 + f TV(pi, pi_beta).

    The printed B depends on s, outside of any mean over s. It holds with the root mean square of B over the states
    (Cauchy and Schwarz on sum_s (rho/sqrt d) B), and so with sup_s B.
    """
    ratios = []
    for _ in range(n):
        rho, d = rng.dirichlet(np.ones(N_STATES), 2)
        pi, pi_beta = rng.dirichlet(np.ones(N_ACTIONS), (2, N_STATES))
        q, f = rng.normal(size=(N_STATES, N_ACTIONS)), rng.uniform()
        left, bound, bracket = _lemma_c4_sides(rho, d, pi, pi_beta, q, f)
        readings = bracket.max(), np.sqrt((bracket**2).mean()), rho @ bracket, bracket.min()
        ratios.append([left / (bound * reading) for reading in readings])
    table = np.array(ratios)
    largest, broken = table.max(axis=0), (table > 1 + SLACK).mean(axis=0)
    return LemmaC4(float(largest[0]), float(largest[1]), float(broken[2]), float(broken[3]))


def lemma_c4_average() -> float:
    """
    Lemma C.4 with the rho-average of the bracket is false, too: left side over that bound, 7.02.

    State 0 has rho .9 and d .9999, and pi all but sure of an action that Q tells far from the others; state 1, of rho .1
    and d .0001, has pi = (1/2, 1/2). Both have variance 1/4.
    """
    sure = 1e-4
    pi = np.array([[1 - sure, sure], [0.5, 0.5]])
    q = np.array([[0.0, 0.5 / np.sqrt(sure * (1 - sure))], [0.0, 1.0]])
    rho, d = np.array([0.9, 0.1]), np.array([0.9999, 0.0001])
    left, bound, bracket = _lemma_c4_sides(rho, d, pi, pi, q, 0.5)
    return float(left / (bound * (rho @ bracket)))


def _lemma_c4_sides(rho: Array, d: Array, pi: Array, pi_beta: Array, q: Array, f: float) -> tuple[float, float, Array]:
    """The left side, the bound without its bracket, and the bracket (S,); alpha = |D| = 1."""
    pi_f = mixture(pi_beta, pi, f)
    std = policy_std(q, pi_f)
    left = float((rho / (std * np.sqrt(d)) * (pi * (1 - pi_f)).sum(axis=1)).sum())
    bound = float(np.sqrt(len(d) * (rho**2 / d).sum())) / float(std.min())
    return left, bound, 1 - (pi**2).sum(axis=1) + 0.5 * f * np.abs(pi - pi_beta).sum(axis=1)


class ValueThreshold(NamedTuple):
    """The residual of the identity, and how often beta >= c_{rho,f} and what it promises."""

    identity: float
    met: float
    broken: int
    overestimates_else: float


def value_threshold(rng: np.random.Generator, n: int, beta: float, robust_weight: float = ALPHA) -> ValueThreshold:
    """
    Cor C.3 at Lemma 4.1's fixed point, no model or sampling error, rewards in [-1, 0].

    Exact: E_{mu pi}[Q - Q^pi] <= 0 iff beta >= -E_rho[w Q]/nu, with w = lambda/(sigma sqrt n), so that w Q = z - Q, and
    nu = f chi. The printed c = alpha B R_max sqrt(kappa S (D_CQL + 1)/|D|)/((1 - gamma) nu) stands above it where
    -Q <= R_max/(1 - gamma), with B's supremum and kappa = 1/min_s Var.
    """
    identity, met, lower = 0.0, list[bool](), list[bool]()
    for islands in draw(rng, n, (-1.0, 0.0)):
        problem, policy, k = islands.problem, islands.policy, islands.n_islands
        rule = dromo_rule(beta, robust_weight, "paper")
        q = evaluate(problem, rule, policy, islands.true_q, max_iterations=600).q
        change = np.abs(rule(problem, q, policy, islands.rho) - q).reshape(k, -1).max(axis=1)
        settled = change < 1e-11 * np.maximum(1, np.abs(q).reshape(k, -1).max(axis=1))
        gap, nu, saved = value_gap_terms(islands, q, beta)
        excess = islands.total(islands.rho * saved)
        residual = gap + (beta * nu + excess) / (1 - GAMMA)
        identity = max(identity, np.abs(residual[settled]).max(initial=0.0))
        bracket = 1 - (policy**2).sum(axis=1) + 0.5 * problem.real_ratio * np.abs(policy - problem.pi_beta).sum(axis=1)
        std = policy_std(q, islands.pi_f).reshape(k, -1).min(axis=1)
        overlap = islands.total(islands.rho.sum(axis=1) ** 2 / problem.d.sum(axis=1))
        root = np.sqrt(N_STATES * overlap / TRANSITIONS)
        with np.errstate(divide="ignore"):
            c = robust_weight * bracket.reshape(k, -1).max(axis=1) * root / (std * (1 - GAMMA) * nu)
        met.extend((beta >= c)[settled])
        lower.extend((gap <= SLACK * np.maximum(1, np.abs(q).max()))[settled])
    enough, holds = np.array(met, dtype=bool), np.array(lower, dtype=bool)
    return ValueThreshold(identity, rate(met), int((enough & ~holds).sum()), rate(list(~holds[~enough])))


class BelowTheRange(NamedTuple):
    printed_threshold: float
    weight: float
    overestimate: float
    lowest_q: float


def below_the_range() -> BelowTheRange:
    """
    Cor C.3 broken: beta = 20 is five times the printed c = 3.97, and E_{mu pi}[Q - Q^pi] = 10.9 > 0.

    Two states that nothing leaves, rewards (1, -1) and (-1, 0), pi = pi_beta uniform, started in with (.8, .2), in the
    data with (.99, .01); gamma .9, f .5, alpha .2, |D| 100. The second state's penalty takes Q to -105, far below
    -R_max/(1 - gamma) = -10, and there 1/(1 + w) pulls it up.
    """
    kernel = np.zeros((2, 2, 2))
    kernel[0, :, 0] = kernel[1, :, 1] = 1
    mdp = FiniteMDP(kernel, np.array([[1.0, -1.0], [-1.0, 0.0]]), GAMMA, np.array([0.8, 0.2]))
    half, data, alpha, beta = np.full((2, 2), 0.5), np.array([0.99, 0.01]), 0.2, 20.0
    d, rho = data[:, None] * half, occupancy(mdp, half)
    true = policy_evaluation(mdp, half)
    problem = OfflineProblem(mdp, mdp, d, half, 100 * data, real_ratio=0.5)
    q = evaluate(problem, dromo_rule(beta, alpha, "paper"), half, true).q
    nu = 0.5 * ((rho - d) ** 2 / mixture(d, rho, 0.5)).sum()
    overlap, std, bracket = (rho.sum(axis=1) ** 2 / data).sum(), policy_std(q, half).min(), 0.5
    c = alpha * bracket * np.sqrt(2 * overlap / 100) / (std * (1 - GAMMA) * nu)
    gap = (mdp.initial[:, None] * half * (q - true)).sum()
    return BelowTheRange(float(c), beta, float(gap), float(q.min()))


class WeightCap(NamedTuple):
    printed: float
    line_above: float


def weight_cap(delta: float = 0.1) -> WeightCap:
    """
    Cor C.3's cap on alpha with two actions, gamma .9, R_max 1, sqrt(Var n) = 1 and E Q at R_max/(1 - gamma): printed .1.

    The line above it, Delta >= alpha (|A| - 1) E Q/sqrt(Var n), gives Delta times that: .01 for Delta = .1, and 0 for a
    perfect model. Neither is needed: where the threshold is negative every beta >= 0 gives the bound.
    """
    cap = (1 - GAMMA) * 1.0 / (2 - 1)
    return WeightCap(cap, delta * cap)


class Pointwise(NamedTuple):
    calibration_error: float
    true_values: Array
    model_values: Array
    returns: tuple[float, float]


def pointwise_calibration() -> Pointwise:
    """
    Remark A.3: a perfectly calibrated model need not give equal values: V = (5.263, -5.263), V^ = (1, -1).

    P = [[.95, .05], [.05, .95]], P^ all .5, R = (1, -1), gamma .9: P^ forecasts .5 for each next state, and under the
    stationary distribution (.5, .5) each comes half of the time. Only the returns agree: J = J^ = 0.
    """
    kernel, model, rewards = np.array([[0.95, 0.05], [0.05, 0.95]]), np.full((2, 2), 0.5), np.array([1.0, -1.0])
    stationary = np.array([0.5, 0.5])
    # One forecast only, made in both states: its outcomes' frequencies against it, summed over the classes.
    error = float(np.abs(stationary @ kernel - model[0]).sum())
    true, imagined = (np.linalg.solve(np.eye(2) - GAMMA * p, rewards) for p in (kernel, model))
    return Pointwise(error, true, imagined, (float(stationary @ true), float(stationary @ imagined)))


class Thm46(NamedTuple):
    """How often (mu pi)^T K (rho - d) <= 0, and how often the corrected beta* told wrongly on one of its sides."""

    effect_not_positive: float
    threshold_wrong: float


def kernel_lower_bound(rng: np.random.Generator, n: int) -> Thm46:
    """
    Thm 4.6, corrected: to first order, one gradient step leaves (mu pi)^T Q+ at most where a step towards T^pi Q would
    iff beta >= [(mu pi)^T K (D_f Delta - (alpha/sqrt n)(D_f - d_f d_f^T) Q/sigma)]/[(mu pi)^T K (rho - d)], K = J J^T.

    As printed the bound is a matrix. K: 30 random features; Delta is normal with std .1; n 100.
    """
    negative, wrong = list[bool](), list[bool]()
    for islands in draw(rng, n):
        for k in range(islands.n_islands):
            d, rho, start, q = (
                x.reshape(islands.n_islands, -1)[k]
                for x in (islands.problem.d, islands.rho, islands.start, islands.true_q / islands.n_islands)
            )
            d, rho, start, q = (x * islands.n_islands for x in (d, rho, start, q))
            jacobian = rng.normal(size=(q.size, 30))
            kernel, d_f = jacobian @ jacobian.T, mixture(d, rho, islands.problem.real_ratio)
            delta = 0.1 * rng.normal(size=q.size)
            centred = d_f * (q - d_f @ q)
            push = ALPHA / np.sqrt(100) * centred / np.sqrt(centred @ (q - d_f @ q))
            row = start @ kernel
            effect = row @ (rho - d)
            negative.append(effect <= 0)
            if effect <= 1e-3:
                continue
            threshold = row @ (d_f * delta - push) / effect
            # The step itself, on parameters: psi+ = psi - eta J^T dL/dQ, with Q linear in psi; y = T^pi Q + Delta, T^pi Q = Q.
            below, above = (
                start @ jacobian @ (jacobian.T @ (d_f * delta - push - (threshold + step) * (rho - d)))
                for step in (-1e-4, 1e-4)
            )
            wrong.append(below <= 0 or above >= 0)
    return Thm46(rate(negative), rate(wrong))
