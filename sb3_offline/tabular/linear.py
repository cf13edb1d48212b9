"""Linear Q = F omega: the lagged and the exact DROMO update (strict form), projected FQI, LSTD-Q, and Thm 4.5."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sb3_offline.tabular import checks
from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.updates import mixture

# A matrix this ill-conditioned has no digit left in float64.
MAX_CONDITION = 1e14


class LinearDromo:
    """
    min over omega of 1/2 ||F omega - y||^2_D + beta (rho - d).F omega + alpha/sqrt(n) sigma(omega), D = diag(d_f).

    With M = F^T D F, Sigma = F^T (D - d_f d_f^T) F and b = F^T D y - beta F^T (rho - d) this is
    1/2 omega^T M omega - b^T omega + kappa sqrt(omega^T Sigma omega). Pairs (s,a) are numbered 0..N-1.

    :param features: F, shape (N, k)
    :param d: data distribution, shape (N,); rho, the rollouts' distribution, has the same shape
    :param real_ratio: f, the weight of real data
    :param conservative_weight: beta
    :param robust_weight: alpha
    :param n: the number of transitions |D| > 0
    :param ridge: adds ridge tr(M)/k to M's diagonal
    :raises ValueError: for a singular M (names its condition number), or distributions that do not sum to 1
    """

    def __init__(
        self,
        features: npt.ArrayLike,
        d: npt.ArrayLike,
        rho: npt.ArrayLike,
        real_ratio: float,
        conservative_weight: float,
        robust_weight: float,
        n: float,
        ridge: float = 0.0,
    ) -> None:
        self.features = checks.finite("features", features)
        n_pairs, n_features = self.features.shape
        d = checks.visitation("d", d, (n_pairs,), complete=True)
        rho = checks.visitation("rho", rho, (n_pairs,), complete=True)
        if not n > 0:
            raise ValueError(f"n must be a positive number of transitions, got {n}")
        self.d_f = mixture(d, rho, real_ratio)
        self.g = rho - d
        self.beta = checks.number("conservative_weight", conservative_weight)
        self.kappa = checks.number("robust_weight", robust_weight) / np.sqrt(n)
        second_moment = self.features.T @ (self.d_f[:, None] * self.features)
        identity = np.eye(n_features)
        self.mass = second_moment + checks.number("ridge", ridge) * np.trace(second_moment) / n_features * identity
        mean = self.features.T @ self.d_f
        self.spread = second_moment - np.outer(mean, mean)
        _check_condition("M = F^T D_f F", self.mass, "Drop dependent features or add a ridge")

    def rhs(self, target: npt.ArrayLike) -> Array:
        """b = F^T D y - beta F^T (rho - d), shape (k,)."""
        y = checks.finite("target", target, self.d_f.shape)
        return self.features.T @ (self.d_f * y - self.beta * self.g)

    def sigma(self, omega: Array) -> float:
        """The std of F omega under d_f."""
        return max(float(omega @ self.spread @ omega), 0.0) ** 0.5

    def objective(self, target: npt.ArrayLike, omega: Array) -> float:
        """1/2 omega^T M omega - b^T omega + kappa sigma(omega)."""
        return float(0.5 * omega @ self.mass @ omega - self.rhs(target) @ omega + self.kappa * self.sigma(omega))

    def gradient(self, target: npt.ArrayLike, omega: Array) -> Array:
        """M omega - b + kappa Sigma omega/sigma(omega), for sigma(omega) > 0."""
        return self.mass @ omega - self.rhs(target) + self.kappa * self.spread @ omega / self.sigma(omega)

    def lagged_update(self, target: npt.ArrayLike, omega: Array) -> Array:
        """The paper's update: omega+ = M^{-1} [b - kappa Sigma omega/sigma(omega)]. No minimiser of anything."""
        sigma = self.sigma(omega)
        push = self.kappa * self.spread @ omega / sigma if sigma > 0 else np.zeros_like(omega)
        return np.linalg.solve(self.mass, self.rhs(target) - push)

    @cached_property
    def _eigen(self) -> tuple[Array, Array]:
        """s in [0, 1] and columns W with W^T M W = I, W^T Sigma W = diag(s)."""
        inverse_root = np.linalg.inv(np.linalg.cholesky(self.mass))
        s, vectors = np.linalg.eigh(inverse_root @ self.spread @ inverse_root.T)
        return np.where(s > 1e-12, s, 0.0), inverse_root.T @ vectors

    def exact_update(self, target: npt.ArrayLike) -> Array:
        """
        The minimiser: omega(tau) = (M + tau Sigma)^{-1} b with tau sigma(omega(tau)) = kappa, by bisection; without a
        root, the minimiser over the null space of Sigma (features whose value is the same at all pairs).
        """
        s, basis = self._eigen
        c = basis.T @ self.rhs(target)
        spread = s > 0
        kappa_max = np.sqrt((c[spread] ** 2 / s[spread]).sum())
        if self.kappa >= kappa_max:
            return basis @ np.where(spread, 0.0, c)
        if self.kappa == 0:
            return basis @ c

        def pull(tau: float) -> float:  # tau sigma(omega(tau)), rises with tau
            return tau * float(np.sqrt((s * (c / (1 + tau * s)) ** 2).sum()))

        low = self.kappa / np.sqrt((s * c**2).sum())
        high = 2 * low
        while pull(high) < self.kappa and np.isfinite(high):
            low, high = high, 2 * high
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if pull(middle) < self.kappa else (low, middle)
        return basis @ (c / (1 + high * s))

    def lower_bound_weight(self, start: Array, policy_target: Array, target: Array, omega: Array) -> float:
        """
        Thm 4.5, corrected: the least beta for which the lagged update from ``omega`` has
        start.F omega+ <= start.T^pi Q^k; the instance's own beta plays no part.

        :param start: mu.pi, start states times policy, shape (N,)
        :param policy_target: T^pi Q^k, the true operator's target, shape (N,)
        :param target: y, the target the update regresses on, shape (N,)
        :param omega: omega^k, where the std term is linearised
        :raises ValueError: if (*) = start.F M^{-1} F^T (rho - d) <= 0: then no beta does it by being large
        """
        project = self.features @ np.linalg.inv(self.mass) @ self.features.T
        star = float(start @ project @ self.g)
        if star <= 0:
            raise ValueError(f"(mu pi)^T F M^-1 F^T (rho - d) = {star:g} is not positive: no such beta exists")
        push = self.kappa * self.spread @ omega / self.sigma(omega)
        penalty = start @ self.features @ np.linalg.solve(self.mass, push)
        return float((start @ (project @ (self.d_f * target) - policy_target) - penalty) / star)


def projected_fqi_update(features: npt.ArrayLike, target: npt.ArrayLike, weights: npt.ArrayLike) -> Array:
    """omega+ = (F^T D F)^{-1} F^T D T Q: fitted Q-iteration (which the paper calls LSTD-Q). Weights d, shape (N,)."""
    f, y, w = _regression(features, target, weights)
    mass = f.T @ (w[:, None] * f)
    _check_condition("F^T D F", mass, "Drop dependent features")
    return np.linalg.solve(mass, f.T @ (w * y))


class LstdSolution(NamedTuple):
    """omega, and the condition number of A, which off-policy may come arbitrarily near to singular."""

    omega: Array
    condition: float


def lstd_q(
    features: npt.ArrayLike, next_features: npt.ArrayLike, rewards: npt.ArrayLike, weights: npt.ArrayLike, gamma: float
) -> LstdSolution:
    """
    LSTD-Q: A omega = F^T D r with A = F^T D (F - gamma P^pi F). Its solution is projected FQI's fixed point.

    :param next_features: P^pi F, the expected features at the next pair, shape (N, k)
    :raises ValueError: for a singular A, naming its condition number
    """
    f, r, w = _regression(features, rewards, weights)
    f_next = checks.finite("next_features", next_features, f.shape)
    a = f.T @ (w[:, None] * (f - checks.discount(gamma) * f_next))
    condition = _check_condition("A = F^T D (F - gamma P^pi F)", a, "No projected fixed point exists")
    return LstdSolution(np.linalg.solve(a, f.T @ (w * r)), condition)


def _regression(features: npt.ArrayLike, target: npt.ArrayLike, weights: npt.ArrayLike) -> tuple[Array, Array, Array]:
    f = checks.finite("features", features)
    return f, checks.finite("target", target, f.shape[:1]), checks.non_negative("weights", weights, f.shape[:1])


def _check_condition(name: str, matrix: Array, remedy: str) -> float:
    condition = float(np.linalg.cond(matrix))
    if not condition < MAX_CONDITION:
        raise ValueError(f"{name} is singular: its condition number is {condition:.3g}. {remedy}")
    return condition
