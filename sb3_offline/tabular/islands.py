"""Random offline problems, many at once: K random MDPs as the islands of one, each with its policies and its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.iteration import OfflineProblem
from sb3_offline.tabular.mdp import random_mdp, random_policy, side_by_side
from sb3_offline.tabular.operators import occupancy, policy_evaluation
from sb3_offline.tabular.updates import mixture

N_STATES, N_ACTIONS, GAMMA, ISLANDS, TRANSITIONS = 6, 3, 0.9, 40, 100


@dataclass(frozen=True, eq=False)
class Islands:
    """K islands without model or sampling error (M~ = M^ = M); every distribution has mass 1/K on each island."""

    problem: OfflineProblem
    policy: Array
    rho: Array

    @property
    def n_islands(self) -> int:
        return self.problem.data.n_states // N_STATES

    @property
    def d_f(self) -> Array:
        return mixture(self.problem.d, self.rho, self.problem.real_ratio)

    @property
    def g(self) -> Array:
        return self.rho - self.problem.d

    @property
    def pi_f(self) -> Array:
        return mixture(self.problem.pi_beta, self.policy, self.problem.real_ratio)

    @property
    def start(self) -> Array:
        """mu.pi, shape (S, A)."""
        return self.problem.data.initial[:, None] * self.policy

    @property
    def true_q(self) -> Array:
        return policy_evaluation(self.problem.data, self.policy)

    def total(self, x: Array) -> Array:
        """Sum over each island's pairs, as if its distributions had mass 1, shape (K,)."""
        return x.reshape(self.n_islands, -1).sum(axis=1) * self.n_islands


def draw(
    rng: np.random.Generator,
    n_mdps: int,
    reward_range: tuple[float, float] = (0.0, 1.0),
    *,
    matched: bool = False,
) -> Iterator[Islands]:
    """
    ``n_mdps`` random problems in groups of at most 40 that share a real ratio f ~ U(0.1, 0.9).

    Each: 6 states, 3 actions, gamma .9, Dirichlet(1) transitions, start states and policies, uniform rewards; rho and
    d are the discounted occupancies of pi and pi_beta, and n(s) = 1 + floor(100 d(s)).

    :param matched: d(s,a) = rho(s) pi_beta(a|s) instead, so that d_f(a|s) = pi^f(a|s)
    """
    for done in range(0, n_mdps, ISLANDS):
        k = min(ISLANDS, n_mdps - done)
        mdp = side_by_side([random_mdp(rng, N_STATES, N_ACTIONS, GAMMA, reward_range) for _ in range(k)])
        policy = random_policy(rng, mdp.n_states, N_ACTIONS)
        pi_beta = random_policy(rng, mdp.n_states, N_ACTIONS)
        rho = occupancy(mdp, policy)
        d = rho.sum(axis=1, keepdims=True) * pi_beta if matched else occupancy(mdp, pi_beta)
        counts = 1 + np.floor(TRANSITIONS * k * d.sum(axis=1))
        yield Islands(OfflineProblem(mdp, mdp, d, pi_beta, counts, float(rng.uniform(0.1, 0.9))), policy, rho)
