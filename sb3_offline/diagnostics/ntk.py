"""
The neural tangent kernel of a critic (:mod:`~sb3_offline.linearization.kernels`), and the divergence conditions read from it.

Equation numbers are those of Achiam, Knight and Abbeel 2019, "Towards Characterizing Divergence in Deep Q-Learning".
A kernel K is (N, N) and a distribution rho has N entries; the algebra is in float64.
"""

from __future__ import annotations

from typing import TypeAlias

import torch as th
from numpy.typing import ArrayLike

from sb3_offline.linearization.kernels import jacobian, kernel, transition_kernels
from sb3_offline.linearization.q_function import NonFiniteKernelError, as_float64

Array: TypeAlias = th.Tensor | ArrayLike

__all__ = [
    "NonFiniteKernelError",
    "beta_modulus",
    "cond16",
    "cond17",
    "cond17_margin",
    "condition_number",
    "effective_rank",
    "jacobian",
    "kernel",
    "largest_stable_learning_rate",
    "row_ratio",
    "td_growth_rate",
    "td_spectral_radius",
    "transition_kernels",
    "u3",
    "update_alignment",
]


def _inputs(kernel: Array, rho: Array) -> tuple[th.Tensor, th.Tensor]:
    k = as_float64(kernel)
    distribution = as_float64(rho).to(k.device)
    if k.ndim != 2 or k.shape[0] != k.shape[1] or distribution.shape != k.shape[:1]:
        raise ValueError(f"kernel {tuple(k.shape)} must be (N, N) and rho {tuple(distribution.shape)} must be (N,).")
    if not (th.isfinite(k).all() and th.isfinite(distribution).all()):
        raise ValueError("kernel and rho must be finite.")
    if (distribution < 0).any():
        raise ValueError("rho is a distribution over the N pairs: its entries cannot be negative.")
    return k, distribution


def beta_modulus(kernel: Array, rho: Array, learning_rate: float, gamma: float) -> float:
    """
    Bound on the sup-norm Lipschitz constant of U3 Q = Q + alpha K D_rho (T*Q - Q) (Theorem 2). Below 1, U3 contracts.

    beta(K) = max_i sum_j (|delta_ij - alpha K_ij rho_j| + alpha gamma |K_ij| rho_j)
    """
    k, distribution = _inputs(kernel, rho)
    step = learning_rate * k * distribution
    return float(((th.eye(len(k)).to(step) - step).abs() + gamma * step.abs()).sum(dim=1).max())


def cond16(kernel: Array, rho: Array, learning_rate: float) -> bool:
    """Eq 16: alpha K_ii rho_i < 1 for every i."""
    k, distribution = _inputs(kernel, rho)
    return bool((learning_rate * k.diagonal() * distribution < 1).all())


def cond17_margin(kernel: Array, rho: Array, gamma: float) -> th.Tensor:
    """
    (1 - gamma) K_ii rho_i - (1 + gamma) sum_{j != i} |K_ij| rho_j for each i (Eq 17), shape (N,).

    Positive where the row satisfies the condition; a margin within rounding of equality is returned as 0.
    """
    k, distribution = _inputs(kernel, rho)
    weighted = k.abs() * distribution
    own = (1 - gamma) * weighted.diagonal()
    others = (1 + gamma) * (weighted.sum(dim=1) - weighted.diagonal())
    margin = own - others
    rounding = 8 * th.finfo(th.float64).eps * weighted.sum(dim=1)
    return th.where(margin.abs() <= rounding, 0.0, margin)


def cond17(kernel: Array, rho: Array, gamma: float) -> bool:
    """
    Eq 17, strict, for every i: (1 + gamma) sum_{j != i} |K_ij| rho_j < (1 - gamma) K_ii rho_i.

    With Eq 16 it makes U3 a contraction. Equality means :func:`beta_modulus` = 1, and is refused; so is rho_i = 0.
    """
    return bool((cond17_margin(kernel, rho, gamma) > 0).all())


def largest_stable_learning_rate(kernel: Array, rho: Array, gamma: float) -> float:
    """
    The learning rate of plain SGD below which Eqs 16 and 17 make U3 a contraction: 1/max_i K_ii rho_i.

    It is 0 if Eq 17 fails: then no step size is guaranteed. (The guarantee is sufficient, not necessary.)
    """
    k, distribution = _inputs(kernel, rho)
    return float(1 / (k.diagonal() * distribution).max()) if cond17(k, distribution, gamma) else 0.0


def row_ratio(kernel: Array) -> th.Tensor:
    """
    R_i = (1/N) sum_{j != i} |K_ij| / K_ii, shape (N,): how far an update at i spills over to the other pairs.

    A row of zeros (Q cannot move there) has ratio 0.
    """
    k = as_float64(kernel)
    diagonal = k.diagonal()
    others = k.abs().sum(dim=1) - diagonal.abs()
    return th.where(diagonal > 0, others / diagonal, 0.0) / len(k)


def effective_rank(kernel: Array) -> float:
    """Exponential of the entropy of the normalised spectrum (Roy and Vetterli 2007), 1 to N; 0 for a null kernel."""
    spectrum = th.linalg.eigvalsh(as_float64(kernel)).clamp(min=0)
    if spectrum.sum() == 0:
        return 0.0
    return float(th.special.entr(spectrum / spectrum.sum()).sum().exp())


def condition_number(kernel: Array) -> float:
    """Ratio of the extreme eigenvalues; infinite if the kernel is singular to float64 precision."""
    spectrum = th.linalg.eigvalsh(as_float64(kernel))
    smallest, largest = float(spectrum[0]), float(spectrum[-1])
    return largest / smallest if smallest > len(spectrum) * th.finfo(th.float64).eps * largest else float("inf")


def update_alignment(kernel: Array, rho: Array, td_errors: Array) -> float:
    """
    Cosine between the first-order change of Q, K D_rho delta, and the TD error delta it should follow.

    1 means that the update does on the batch what Q-learning asks; NaN if either vector vanishes.
    """
    k, distribution = _inputs(kernel, rho)
    delta = as_float64(td_errors).to(k.device).reshape(-1)
    change = k @ (distribution * delta)
    return float(change @ delta / (change.norm() * delta.norm()))


def _td_spectrum(kernel: Array, next_kernel: Array, rho: Array, gamma: Array) -> th.Tensor:
    """Non-zero eigenvalues of the linearised TD update of Q on the batch, (gamma K' - K) D_rho per unit step."""
    k, distribution = _inputs(kernel, rho)
    discount = as_float64(gamma).to(k.device).reshape(-1, 1)
    # J D (gamma J' - J)^T acts on the parameters; this (N, N) matrix has the same non-zero spectrum
    spectrum = th.linalg.eigvals((discount * as_float64(next_kernel).to(k.device) - k) * distribution)
    size = spectrum.abs()
    return spectrum[size > 1e-10 * size.max()]


def td_growth_rate(kernel: Array, next_kernel: Array, rho: Array, gamma: Array) -> float:
    """
    Largest real part in the spectrum of semi-gradient TD linearised at the present weights (no target network).

    Positive: Q grows exponentially however small the step, as in Tsitsiklis and Van Roy's example (1997).
    This judges the transitions that are there, where Eq 17 allows for the worst ones.

    :param next_kernel: K' = J(s', a') J(s, a)ᵀ, row i belongs to the successor of pair i, (N, N)
    :param gamma: discount; or gamma (1 - done) for each row, (N,)
    """
    spectrum = _td_spectrum(kernel, next_kernel, rho, gamma)
    return float(spectrum.real.max()) if len(spectrum) else 0.0


def td_spectral_radius(kernel: Array, next_kernel: Array, rho: Array, learning_rate: float, gamma: Array) -> float:
    """
    Spectral radius of a linearised SGD step of TD: above 1, errors grow. Unlike the growth rate it sees the step size.

    :param next_kernel: as in :func:`td_growth_rate`
    """
    spectrum = _td_spectrum(kernel, next_kernel, rho, gamma)
    return float((1 + learning_rate * spectrum).abs().max()) if len(spectrum) else 1.0


def u3(
    q: Array,
    kernel: Array,
    rho: Array,
    learning_rate: float,
    gamma: float,
    transitions: Array,
    rewards: Array,
) -> th.Tensor:
    """
    U3 Q = Q + alpha K D_rho (T*Q - Q) on a finite MDP, pairs numbered s A + a.

    :param q: (S, A)
    :param kernel: (S A, S A)
    :param rho: (S A,)
    :param transitions: P(s'|s, a), (S, A, S)
    :param rewards: (S, A)
    :return: (S, A)
    """
    k, distribution = _inputs(kernel, rho)
    values, p, r = (as_float64(x).to(k.device) for x in (q, transitions, rewards))
    if values.ndim != 2 or values.numel() != len(k) or p.shape != (*values.shape, len(values)):
        raise ValueError(
            f"q {tuple(values.shape)}, transitions {tuple(p.shape)} and kernel {tuple(k.shape)} do not belong to one "
            "MDP: expected (S, A), (S, A, S) and (S A, S A)."
        )
    optimal = r + gamma * p @ values.max(dim=1).values
    return values + learning_rate * (k @ (distribution * (optimal - values).flatten())).reshape(values.shape)
