"""
First-order prediction of one gradient step on DROMO's strict loss (Liu, Chen, Zhong, Eq 17).

L = 1/2 E_{d_f}(Q - y)² + beta (E_rho Q - E_d Q) + (alpha/sqrt n) std_{d_f}(Q) gives Q+ - Q = -eta K dL/dQ + O(eta²).
The paper's Eq 37 (Theorem 4.6) has this with slips: K stands on the left of every term, the square of D_f is the
rank-one matrix d_f d_fᵀ, and (U - V) is rho - d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch as th

from sb3_offline.diagnostics.ntk import Array
from sb3_offline.linearization.q_function import as_float64


@dataclass(frozen=True)
class LossWeights:
    """
    The weights of Eq 17.

    :param real_ratio: f, the weight of real data: d_f = f d + (1 - f) rho
    :param conservative_weight: beta
    :param robust_weight: alpha
    :param count: n
    """

    real_ratio: float
    conservative_weight: float = 0.0
    robust_weight: float = 0.0
    count: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.real_ratio <= 1:
            raise ValueError(f"real_ratio={self.real_ratio} must lie in [0, 1].")
        if self.count <= 0:
            raise ValueError(f"count={self.count} must be positive.")

    def mixture(self, data: th.Tensor, model: th.Tensor) -> th.Tensor:
        """:return: d_f"""
        return self.real_ratio * data + (1 - self.real_ratio) * model

    def robust_gradient(self, q: th.Tensor, mixture: th.Tensor) -> th.Tensor:
        """:return: (alpha/sqrt n)(D_f - d_f d_fᵀ) Q/sigma, and 0 where sigma = 0"""
        centred = mixture * (q - mixture @ q)
        std = (mixture @ (q - mixture @ q).square()).sqrt()
        return self.robust_weight / math.sqrt(self.count) * centred / std if std > 0 else th.zeros_like(q)


def predict_q_change(
    kernel: Array,
    q_values: Array,
    targets: Array,
    data: Array,
    model: Array,
    weights: LossWeights,
    learning_rate: float,
) -> th.Tensor:
    """
    eta K [D_f (y - Q) - beta (rho - d) - (alpha/sqrt n)(D_f - d_f d_fᵀ) Q/sigma], shape (N,), float64.

    :param kernel: NTK of all N pairs, (N, N)
    :param q_values: Q before the step, (N,)
    :param targets: y = f T~Q + (1 - f) T^Q, (N,)
    :param data: d, (N,)
    :param model: rho, (N,)
    :param learning_rate: eta, of plain SGD
    """
    k, q, y, d, rho = (as_float64(x) for x in (kernel, q_values, targets, data, model))
    d_f = weights.mixture(d, rho)
    descent = d_f * (y - q) - weights.conservative_weight * (rho - d) - weights.robust_gradient(q, d_f)
    return learning_rate * k @ descent


def conservative_weight_threshold(
    kernel: Array,
    q_values: Array,
    targets: Array,
    policy_targets: Array,
    start: Array,
    data: Array,
    model: Array,
    weights: LossWeights,
) -> float:
    """
    The beta from which on, to first order, the step leaves E_{mu pi} Q at or below what a step towards T^pi Q would.

    beta* = [(mu pi)ᵀ K D_f (y - T^pi Q) - (alpha/sqrt n)(mu pi)ᵀ K (D_f - d_f d_fᵀ) Q/sigma]/[(mu pi)ᵀ K (rho - d)],
    the corrected bound of Theorem 4.6. ``weights.conservative_weight`` plays no part.

    :param policy_targets: T^pi Q in the true MDP, (N,)
    :param start: mu pi, the start-state distribution times the policy, (N,)
    :raises ValueError: if (mu pi)ᵀ K (rho - d) <= 0: raising beta then raises the value, and no bound exists
    """
    k, q, y, policy, mu_pi, d, rho = (as_float64(x) for x in (kernel, q_values, targets, policy_targets, start, data, model))
    d_f, row = weights.mixture(d, rho), mu_pi @ k
    effect = float(row @ (rho - d))
    if effect <= 0:
        raise ValueError(
            f"(mu pi)ᵀ K (rho - d) = {effect:.3g} is not positive: through this kernel the conservative term raises "
            "the start value, so no conservative weight gives the bound."
        )
    return float(row @ (d_f * (y - policy) - weights.robust_gradient(q, d_f))) / effect
