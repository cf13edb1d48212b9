"""Bellman operators, policy evaluation and discounted occupancies, all exact."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from sb3_offline.tabular import checks
from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.mdp import FiniteMDP

TargetWeights = Literal["constant", "sample"]


def bellman(mdp: FiniteMDP, q: Array, policy: Array) -> Array:
    """T^pi Q = r + gamma sum_s' P(s'|s,a) (1 - done) E_pi Q(s',.), shape (S, A)."""
    return mdp.rewards + mdp.gamma * mdp.kernel @ (policy * q).sum(axis=1)


def policy_evaluation(mdp: FiniteMDP, policy: Array, rewards: Array | None = None) -> Array:
    """
    Q^pi = (I - gamma P^pi)^{-1} r by one linear solve, shape (S, A).

    :param rewards: any other (S, A) array to which the resolvent S^pi = (I - gamma P^pi)^{-1} is applied
    """
    r = mdp.rewards if rewards is None else rewards
    state_kernel = np.einsum("sa,sat->st", policy, mdp.kernel)
    values = np.linalg.solve(np.eye(mdp.n_states) - mdp.gamma * state_kernel, (policy * r).sum(axis=1))
    return r + mdp.gamma * mdp.kernel @ values


def occupancy(mdp: FiniteMDP, policy: Array) -> Array:
    """
    The discounted occupancy (1 - gamma) sum_t gamma^t Pr(s_t = s) pi(a|s), shape (S, A), sums to 1.

    In an MDP with terminations it is the distribution over the pairs that are acted in, normalised.
    """
    state_kernel = np.einsum("sa,sat->st", policy, mdp.kernel)
    visits = np.linalg.solve(np.eye(mdp.n_states) - mdp.gamma * state_kernel.T, mdp.initial)
    return (visits / visits.sum())[:, None] * policy


def greedy(q: Array, allowed: npt.NDArray[np.bool_] | None = None) -> Array:
    """The policy argmax_a Q(s,a) among the allowed actions, as (S, A) probabilities; ties go to the first."""
    candidates = q if allowed is None else np.where(allowed, q, -np.inf)
    return np.eye(q.shape[1])[candidates.argmax(axis=1)]


def boltzmann(q: Array, temperature: float) -> Array:
    """The policy softmax(Q/temperature), which maximises E_pi Q + temperature x entropy as SAC's actor does."""
    scaled = q / temperature
    weight = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def data_weight(d: npt.ArrayLike, rho: npt.ArrayLike, real_ratio: float, target_weights: TargetWeights = "constant") -> Array:
    """
    The weight w of the data's Bellman target in y = w T~Q + (1 - w) T^Q.

    ``constant`` is w = f, the theory's target. ``sample`` is w(s,a) = f d/d_f, what the sampled loss
    E_{(s,a,s')~d_f} (Q - y)^2 is minimised by. They agree where d = rho, and where d_f = 0 (there w = f).
    """
    f = checks.number("real_ratio", real_ratio, 0, 1)
    d, rho = np.asarray(d, dtype=np.float64), np.asarray(rho, dtype=np.float64)
    constant = np.full(np.broadcast_shapes(d.shape, rho.shape), f)
    if target_weights == "constant":
        return constant
    if target_weights != "sample":
        raise ValueError(f"target_weights must be 'constant' or 'sample', got {target_weights!r}")
    d_f = f * d + (1 - f) * rho
    return np.divide(f * d, d_f, out=constant, where=d_f > 0)


def mixed_target(data: FiniteMDP, model: FiniteMDP, q: Array, policy: Array, weight: Array | float) -> Array:
    """y = w T~Q + (1 - w) T^Q with the data's operator T~, the model's T^ and :func:`data_weight`'s w."""
    return weight * bellman(data, q, policy) + (1 - weight) * bellman(model, q, policy)
