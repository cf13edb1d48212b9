"""The DROMO paper's claims about its iteration, measured on random MDPs: residuals of identities, violation rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.dromo import dromo_update, lemma_factor, policy_std
from sb3_offline.tabular.islands import GAMMA, Islands, draw
from sb3_offline.tabular.iteration import dromo_rule, evaluate
from sb3_offline.tabular.operators import bellman, policy_evaluation

# alpha, the robust weight, of every measurement; beta is given by name.
ALPHA = 0.5
# What counts as a violation of an inequality: more than rounding.
SLACK = 1e-9


def rate(events: Sequence[bool] | Sequence[float]) -> float:
    """The share of events that happened; nan if there was no occasion for any."""
    return float(np.mean(events)) if len(events) else np.nan


class Thm42(NamedTuple):
    """Lemma 4.1's fixed point: how often it settled, broke the printed bound, and overestimated; resolvent residual."""

    settled: float
    entries_violated: float
    overestimates: float
    resolvent: float


def lemma_bound(rng: np.random.Generator, n: int, reward_range: tuple[float, float], beta: float) -> Thm42:
    """
    Thm 4.2: Lemma 4.1's fixed point against c S^pi (r - beta g/d_f), S^pi = (I - gamma P^pi)^{-1}.

    What holds is Q = (I - gamma C P^pi)^{-1} C (r - beta g/d_f), C = diag(c); ``resolvent`` is its largest residual.
    """
    settled: list[bool] = []
    violated: list[float] = []
    over: list[bool] = []
    residual = 0.0
    for islands in draw(rng, n, reward_range):
        problem, policy, k = islands.problem, islands.policy, islands.n_islands
        rule = dromo_rule(beta, ALPHA, "paper")
        # From Q = 0 the printed lemma never moves: sigma = 0 makes c = 0. It starts from Q^pi.
        q = evaluate(problem, rule, policy, islands.true_q, max_iterations=1000).q
        change = np.abs(rule(problem, q, policy, islands.rho) - q)
        ok = change.reshape(k, -1).max(axis=1) < 1e-12
        penalised = problem.data.rewards - beta * islands.g / islands.d_f
        c = lemma_factor(q, islands.pi_f, problem.counts, ALPHA)
        broken = q > c * policy_evaluation(problem.data, policy, penalised) + SLACK
        pair_kernel = np.einsum("sat,tb->satb", problem.data.kernel, policy).reshape(q.size, q.size)
        inside = np.linalg.solve(np.eye(q.size) - GAMMA * c.reshape(-1, 1) * pair_kernel, (c * penalised).ravel())
        settled.extend(ok)
        violated.extend(broken.reshape(k, -1).mean(axis=1)[ok])
        over.extend((islands.total(islands.start * (q - islands.true_q)) > SLACK)[ok])
        residual = max(residual, np.abs(inside - q.ravel()).reshape(k, -1)[ok].max(initial=0.0))
    return Thm42(rate(settled), rate(violated), rate(over), residual)


class Cor43(NamedTuple):
    """The largest residual of the exact identity, how often the iteration converged, and how often it overestimates."""

    identity: float
    converged: float
    overestimates: float


def value_gap(rng: np.random.Generator, n: int, beta: float) -> Cor43:
    """Cor 4.3, exact: E_{mu pi}[Q - Q^pi] = -(beta f chi + sum rho (z - Q))/(1 - gamma) at DROMO's fixed point."""
    identity, converged, over = 0.0, list[bool](), list[bool]()
    for islands in draw(rng, n):
        fixed = evaluate(islands.problem, dromo_rule(beta, ALPHA), islands.policy, max_iterations=2000)
        gap, f_chi, saved = value_gap_terms(islands, fixed.q, beta)
        right = -(beta * f_chi + islands.total(islands.rho * saved)) / (1 - GAMMA)
        identity = max(identity, np.abs(gap - right).max())
        over.extend(gap > SLACK)
        converged.extend([fixed.converged] * islands.n_islands)
    return Cor43(identity, rate(converged), rate(over))


class MatchedCor43(NamedTuple):
    """Largest residual of the matched identity; the sufficient condition: met how often, and broken how many times."""

    identity: float
    overestimates: float
    sufficient: float
    broken: int


def matched_value_gap(rng: np.random.Generator, n: int, beta: float) -> MatchedCor43:
    """
    Cor 4.3 with matched conditionals, d_f(a|s) = pi^f(a|s).

    Where the spread survives, sum_a rho (z - Q) = rho(s) (alpha f/sqrt n)(E_pi Q - E_pi_beta Q)/sigma (compared here
    after multiplying by sigma). Enough for a lower bound: beta f chi >= sum rho (alpha/sqrt n) sqrt(chi2(pi||pi^f)).
    """
    identity, over, sufficient, broken = 0.0, list[bool](), list[bool](), 0
    for islands in draw(rng, n, matched=True):
        problem, policy, rho = islands.problem, islands.policy, islands.rho
        q = evaluate(problem, dromo_rule(beta, ALPHA), policy, max_iterations=2000).q
        gap, f_chi, saved = value_gap_terms(islands, q, beta)
        sigma = policy_std(q, islands.pi_f)
        weight = rho.sum(axis=1) * ALPHA / np.sqrt(problem.counts)
        advantage = ((policy - problem.pi_beta) * q).sum(axis=1)
        residual = sigma * (rho * saved).sum(axis=1) - weight * problem.real_ratio * advantage
        identity = max(identity, np.abs(residual[sigma > SLACK]).max(initial=0.0))
        chi2 = ((policy - islands.pi_f) ** 2 / islands.pi_f).sum(axis=1)
        enough = beta * f_chi >= islands.total(weight * np.sqrt(chi2))
        over.extend(gap > SLACK)
        sufficient.extend(enough)
        broken += int((gap[enough] > SLACK).sum())
    return MatchedCor43(identity, rate(over), rate(sufficient), broken)


def value_gap_terms(islands: Islands, q: Array, beta: float) -> tuple[Array, Array, Array]:
    """E_{mu pi}[Q - Q^pi] and f chi for each island, and z - Q."""
    problem = islands.problem
    saved = bellman(problem.data, q, islands.policy) - beta * islands.g / islands.d_f - q
    f_chi = problem.real_ratio * islands.total(islands.g**2 / islands.d_f)
    return islands.total(islands.start * (q - islands.true_q)), f_chi, saved


class Thm44(NamedTuple):
    """The one-step gap identity, its beta* from both sides, and how often COMBO's fixed point narrows the gap."""

    identity: float
    threshold_wrong: float
    fixed_point_narrows: float
    chain_narrows: float


def data_gap(rng: np.random.Generator, n: int, beta: float = 0.3) -> Thm44:
    """
    Thm 4.4: (d - rho).Q+ = -sum g c y + beta sum c g^2/d_f for the lemma's Q+ = c (y - beta g/d_f).

    ``chain_narrows`` is the rate on deterministic chains of 4 states and one action, with any d and rho.
    """
    identity, wrong, narrows = 0.0, list[bool](), list[bool]()
    for islands in draw(rng, n):
        problem, g, total = islands.problem, islands.g, islands.total
        q = rng.normal(size=g.shape)
        y = bellman(problem.data, q, islands.policy)
        c = lemma_factor(q, islands.pi_f, problem.counts, ALPHA)
        slope = total(c * g**2 / islands.d_f)
        identity = max(identity, np.abs(_lemma_gap(islands, q, y, beta) - total(-g * c * y) - beta * slope).max())
        threshold = (total(g * c * y) - total(g * y)) / slope
        for k in np.flatnonzero(threshold > 1e-3):
            below, above = (_lemma_gap(islands, q, y, threshold[k] + step)[k] + total(g * y)[k] for step in (-1e-4, 1e-4))
            wrong.append(below >= 0 or above <= 0)
        narrows.extend(total(g * policy_evaluation(problem.data, islands.policy, g / islands.d_f)) < -SLACK)
    chains = [_chain_narrows(rng) for _ in range(10 * n)]
    return Thm44(identity, rate(wrong), rate(narrows), rate(chains))


def _lemma_gap(islands: Islands, q: Array, y: Array, beta: float) -> Array:
    """(d - rho).Q+ of Lemma 4.1's update, for each island."""
    p = islands.problem
    updated = dromo_update(y, p.d, islands.rho, p.counts, islands.pi_f, p.real_ratio, beta, ALPHA, mode="paper", q=q)
    return islands.total(-islands.g * updated)


def _chain_narrows(rng: np.random.Generator) -> bool:
    kernel = np.eye(4)[rng.integers(0, 4, 4)]
    d, rho = rng.dirichlet(np.ones(4), 2)
    f = rng.uniform(0.1, 0.9)
    change = np.linalg.solve(np.eye(4) - GAMMA * kernel, (rho - d) / (f * d + (1 - f) * rho))
    return float((rho - d) @ change) < -SLACK
