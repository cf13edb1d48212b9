"""Fixed points and policy iteration with any of the updates, with a cap and a convergence flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.dromo import DromoMode, dromo_update, strict_dromo_update
from sb3_offline.tabular.mdp import FiniteMDP
from sb3_offline.tabular.operators import TargetWeights, bellman, data_weight, greedy, mixed_target, occupancy
from sb3_offline.tabular.updates import combo_update, cql_h_update, cql_update, mixture


@dataclass(frozen=True, eq=False)
class OfflineProblem:
    """
    What the offline learner knows: the data's MDP, the learned model, and how the data was collected.

    :param data: the empirical MDP, T~
    :param model: the learned model, T^
    :param d: dataset distribution over pairs, shape (S, A)
    :param pi_beta: behaviour policy, shape (S, A)
    :param counts: visits n(s), shape (S,)
    :param real_ratio: f, the weight of real data
    :param target_weights: how the two Bellman targets are mixed, see :func:`data_weight`
    """

    data: FiniteMDP
    model: FiniteMDP
    d: Array
    pi_beta: Array
    counts: Array
    real_ratio: float
    target_weights: TargetWeights = "constant"

    def target(self, q: Array, policy: Array, rho: Array) -> Array:
        """y = w T~Q + (1 - w) T^Q."""
        weight = data_weight(self.d, rho, self.real_ratio, self.target_weights)
        return mixed_target(self.data, self.model, q, policy, weight)


# One update of Q under a fixed policy and its rollout distribution rho.
Rule = Callable[[OfflineProblem, Array, Array, Array], Array]


def plain_rule() -> Rule:
    """The mixed Bellman target and nothing else: the certainty-equivalent learner."""
    return lambda problem, q, policy, rho: problem.target(q, policy, rho)


def cql_rule(conservative_weight: float, *, subtract_behavior: bool = False) -> Rule:
    """CQL (Eq 11) with mu = pi, on the data alone. Improve with the actions that pi_beta takes, see :func:`greedy`."""
    return lambda problem, q, policy, _rho: cql_update(
        bellman(problem.data, q, policy),
        policy,
        problem.pi_beta,
        conservative_weight,
        subtract_behavior=subtract_behavior,
        q=q,
    )


def cql_h_rule(conservative_weight: float) -> Rule:
    """CQL(H), on the data alone."""
    return lambda problem, q, policy, _rho: cql_h_update(
        bellman(problem.data, q, policy), problem.pi_beta, conservative_weight
    )


def combo_rule(conservative_weight: float) -> Rule:
    """COMBO (Eq 8)."""
    return lambda problem, q, policy, rho: combo_update(
        problem.target(q, policy, rho), problem.d, rho, problem.real_ratio, conservative_weight, q=q
    )


def dromo_rule(conservative_weight: float, robust_weight: float, mode: DromoMode = "exact") -> Rule:
    """DROMO (Eq 13)."""
    return lambda problem, q, policy, rho: dromo_update(
        problem.target(q, policy, rho),
        problem.d,
        rho,
        problem.counts,
        mixture(problem.pi_beta, policy, problem.real_ratio),
        problem.real_ratio,
        conservative_weight,
        robust_weight,
        mode,
        q=q,
    )


def strict_dromo_rule(conservative_weight: float, robust_weight: float) -> Rule:
    """Strict DROMO (Eq 17) with n = |D|."""
    return lambda problem, q, policy, rho: strict_dromo_update(
        problem.target(q, policy, rho),
        problem.d,
        rho,
        float(problem.counts.sum()),
        problem.real_ratio,
        conservative_weight,
        robust_weight,
        q=q,
    )


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """A Q-table, whether the last sweep changed it by at most the tolerance, and how many sweeps it took."""

    q: Array
    converged: bool
    iterations: int
    change: float


def fixed_point(
    step: Callable[[Array], Array], q: Array, max_iterations: int = 10_000, tolerance: float = 1e-13
) -> FixedPoint:
    """
    Repeat ``step`` until no entry changes by more than ``tolerance`` (relative to the largest |Q|, at least 1).

    DROMO's exact update is no sup-norm contraction: it may fail to converge, which the flag tells. An iterate that
    is not finite ends the loop.
    """
    change = np.inf
    for iteration in range(1, max_iterations + 1):
        new = step(q)
        change, q = float(np.abs(new - q).max()), new
        if not np.isfinite(change):
            break
        if change <= tolerance * max(1.0, float(np.abs(q).max())):
            return FixedPoint(q, True, iteration, change)
    return FixedPoint(q, False, iteration, change)


def evaluate(
    problem: OfflineProblem,
    rule: Rule,
    policy: Array,
    q: Array | None = None,
    max_iterations: int = 10_000,
    tolerance: float = 1e-13,
) -> FixedPoint:
    """The fixed point of one rule under one policy, from Q = 0; rho is the policy's occupancy in the model."""
    rho = occupancy(problem.model, policy)
    start = np.zeros_like(problem.d) if q is None else q
    return fixed_point(lambda x: rule(problem, x, policy, rho), start, max_iterations, tolerance)


@dataclass(frozen=True, eq=False)
class PolicyIteration:
    """
    :param q: the fixed point under the last policy evaluated
    :param policy: that policy, shape (S, A)
    :param converged: its evaluation converged and improving it gives it back
    :param iterations: policies evaluated
    """

    q: Array
    policy: Array
    converged: bool
    iterations: int


def policy_iteration(
    problem: OfflineProblem,
    rule: Rule,
    policy: Array,
    improve: Callable[[Array], Array] = greedy,
    max_policies: int = 100,
    max_iterations: int = 10_000,
    tolerance: float = 1e-13,
) -> PolicyIteration:
    """
    Evaluate a policy with ``rule``, improve it, and so on until it stays as it is.

    Each evaluation starts from the last one's Q. The penalty falls on what the policy does, so that the greedy step
    may run round in a circle (the flag tells); a :func:`boltzmann` step settles where its temperature is high enough.

    :param policy: the first policy, shape (S, A)
    :param improve: Q -> policy, greedy by default
    """
    q = np.zeros_like(problem.d)
    for iteration in range(1, max_policies + 1):
        evaluation = evaluate(problem, rule, policy, q, max_iterations, tolerance)
        q = evaluation.q
        if not np.isfinite(q).all():
            break
        improved = improve(q)
        if np.abs(improved - policy).max() <= 1e-10:
            return PolicyIteration(q, policy, evaluation.converged, iteration)
        if iteration < max_policies:
            policy = improved
    return PolicyIteration(q, policy, False, iteration)
