"""
Linearisation of the temporal-difference error in the critic's weights.

e(w) = Q(z; w) - r - gamma (1 - done) Q(z+; w) is minus the TD error delta. Around reference weights w*, with
w~ = w - w* and the data vector d = grad_w e: e(w) = pivot + dᵀ w~ + O(|w~|²), where pivot = e(w*).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch as th
from torch import nn
from torch.func import jvp

from sb3_offline.linearization.q_function import Parameters, QFunction, as_float64, evaluation_mode
from sb3_offline.networks.observations import Observations


@dataclass(frozen=True)
class Transitions:
    """
    A batch of M transitions z = (s, a) -> z+ = (s', a').

    For a target y of your own, pass ``rewards=y`` and ``discounts=0``.

    :param actions: (M, action_dim), (M, 1) for DQN, or None for a critic of observations alone
    :param rewards: (M,)
    :param discounts: gamma (1 - done), (M,)
    :param next_actions: a' in s', as ``actions``
    :raises ValueError: if rewards or discounts are not vectors of one length
    """

    observations: Observations
    actions: th.Tensor | None
    rewards: th.Tensor
    discounts: th.Tensor
    next_observations: Observations
    next_actions: th.Tensor | None

    def __post_init__(self) -> None:
        if self.rewards.ndim != 1 or self.rewards.shape != self.discounts.shape:
            raise ValueError(
                f"rewards {tuple(self.rewards.shape)} and discounts {tuple(self.discounts.shape)} must both be (M,); "
                "SB3's replay buffers return (M, 1): use .flatten()."
            )


def bellman_residuals(q: QFunction, batch: Transitions, parameters: Parameters | None = None) -> th.Tensor:
    """:return: e = Q(z) - r - gamma (1 - done) Q(z+), shape (M,), at the critic's own or at the given parameters"""
    with evaluation_mode(q.critic):
        now = q(batch.observations, batch.actions, parameters)
        successor = q(batch.next_observations, batch.next_actions, parameters)
    return now - batch.rewards - batch.discounts * successor


def data_vectors(q: QFunction, batch: Transitions, *, semi_gradient: bool = False, chunk_size: int | None = None) -> th.Tensor:
    """
    d = grad_w e of every transition, shape (M, n_parameters), in the critic's dtype.

    :param semi_gradient: treat Q(z+) as a constant: d = grad_w Q(z)
    :raises NonFiniteKernelError: naming the parameter whose derivative is infinite or NaN
    """
    now = th.cat(list(q.jacobian_blocks(batch.observations, batch.actions, chunk_size)))
    if semi_gradient:
        return now
    size, start = chunk_size or q.default_chunk_size(), 0
    for block in q.jacobian_blocks(batch.next_observations, batch.next_actions, size):
        rows = slice(start, start + len(block))
        now[rows].addcmul_(block, batch.discounts[rows, None], value=-1)
        start += len(block)
    return now


@dataclass(frozen=True)
class Excitation:
    """
    Spectrum of the normalised excitation matrix E = sum_j d_j d_jᵀ/(1 + d_jᵀd_j)², (n_parameters, n_parameters).

    :param lam_min: smallest eigenvalue; 0 whenever the M data vectors do not span the weights, so always if M < P
    :param lam_min_gram: smallest non-zero eigenvalue, from the (M, M) Gram matrix; 0 if E = 0
    :param lam_max: largest eigenvalue, at most M/4
    :param rank: number of directions of weight space that are excited
    """

    lam_min: float
    lam_min_gram: float
    lam_max: float
    rank: int

    @property
    def largest_stable_step(self) -> float:
        """2/lam_max: the linear part of the normalised critic rule is non-expansive up to here; 8/M suffices."""
        return 2 / self.lam_max if self.lam_max > 0 else float("inf")


def excitation(data: th.Tensor) -> Excitation:
    """:param data: data vectors, (M, n_parameters)"""
    d = as_float64(data)
    gram = d @ d.T
    weights = 1 / (1 + gram.diagonal())
    # E and (d_iᵀ d_j)/((1 + |d_i|²)(1 + |d_j|²)) share their non-zero spectrum
    spectrum = th.linalg.eigvalsh(weights[:, None] * gram * weights)
    largest = float(spectrum[-1].clamp(min=0))
    nonzero = spectrum[spectrum > len(spectrum) * th.finfo(th.float64).eps * largest]
    smallest = float(nonzero[0]) if len(nonzero) else 0.0
    return Excitation(
        lam_min=smallest if len(nonzero) == d.shape[1] else 0.0,
        lam_min_gram=smallest,
        lam_max=largest,
        rank=len(nonzero),
    )


@dataclass(frozen=True)
class Linearization:
    """
    e(w) against its linear model around w*, each of shape (M,), float64.

    :param residuals: e(w)
    :param pivot: e(w*)
    :param linear: dᵀ (w - w*)
    """

    residuals: th.Tensor
    pivot: th.Tensor
    linear: th.Tensor

    @property
    def remainder(self) -> th.Tensor:
        """e(w) - pivot - dᵀ w~, (M,): second order in w~"""
        return self.residuals - self.pivot - self.linear

    def remainder_ratio(self, eps: float = 1e-8) -> th.Tensor:
        """|e(w) - pivot - dᵀ w~|/(|e(w) - pivot| + eps), (M,): 0 in the linear regime, of order 1 outside it"""
        return self.remainder.abs() / ((self.residuals - self.pivot).abs() + eps)


def linearize(
    q: QFunction,
    reference: nn.Module | Parameters,
    batch: Transitions,
    *,
    at: Literal["current", "reference"] = "current",
) -> Linearization:
    """
    :param reference: w*: a module of the same architecture (a target network), or a snapshot of ``q.parameters``
    :param at: where d is taken. It changes the sign of the leading part of the remainder.
    :raises ValueError: if the reference lacks parameters of the critic
    """
    current = q.parameters
    values = dict(reference.named_parameters()) if isinstance(reference, nn.Module) else reference
    missing = [name for name, p in current.items() if name not in values or values[name].shape != p.shape]
    if missing:
        raise ValueError(f"the reference is no copy of the critic: it lacks {missing[:3]}, or they differ in shape.")
    start = {name: values[name].detach() for name in current}
    offset = {name: current[name] - start[name] for name in current}
    point = current if at == "current" else start
    with th.no_grad():
        residuals = bellman_residuals(q, batch)
        pivot = bellman_residuals(q, batch, start)
    linear = jvp(lambda parameters: bellman_residuals(q, batch, parameters), (point,), (offset,))[1]
    return Linearization(as_float64(residuals), as_float64(pivot), as_float64(linear))
