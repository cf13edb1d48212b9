"""The worst case of a mean over distributions around p: a chi-square ball, which the std term stands for, and CVaR's set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_offline.tabular import checks


def chi2_worst_case(values: npt.ArrayLike, probabilities: npt.ArrayLike, radius: float) -> float:
    """
    sup of E_q Z over q with sum_i (q_i - p_i)^2/p_i <= radius (twice the radius of Duchi and Namkoong 2016).

    The maximiser is q_i ~ p_i (Z_i - eta)_+, with eta found by bisection on
    E[(Z - eta)_+^2]/E[(Z - eta)_+]^2 = 1 + radius; from radius 1/P(Z = max) - 1 on, it is max Z.

    :param values: Z, shape (n,)
    :param probabilities: p, shape (n,), sums to 1; outcomes with p = 0 stay outside the ball
    """
    z = checks.finite("values", values, ndim=1)
    p = checks.stochastic("probabilities", probabilities, z.shape)
    radius = checks.number("radius", radius)
    z, p = z[p > 0], p[p > 0]
    mean, top = float(p @ z), float(z.max())
    if radius == 0 or np.ptp(z) == 0:
        return mean
    if radius >= 1 / p[z == top].sum() - 1:
        return top

    def excess(eta: float) -> float:
        part = np.maximum(z - eta, 0)
        return float(p @ part**2 / (p @ part) ** 2 - 1 - radius)

    # Unclipped, eta = E - sigma/sqrt(radius); clipping only lowers the radius reached, so the root lies above.
    low, high = mean - float(np.sqrt(p @ (z - mean) ** 2 / radius)), top
    for _ in range(200):
        eta = 0.5 * (low + high)
        if eta in (low, high):
            break
        low, high = (low, eta) if excess(eta) > 0 else (eta, high)
    weight = p * np.maximum(z - low, 0)
    return float(weight @ z / weight.sum())


def cvar_worst_case(values: npt.ArrayLike, probabilities: npt.ArrayLike, share: float) -> float:
    """
    sup of E_q Z over q <= p/share: the mean over the share of p's mass with the largest Z (conditional value at risk,
    Rockafellar and Uryasev 2000), exact by sorting. It is E Z at a share of 1, and max Z from P(Z = max) down.

    As an ambiguity set for E_rho Q it is a DRO chance constraint: the estimate is as large as it can be made by dropping a
    fraction 1 - share of the mass.

    :param values: Z, shape (n,)
    :param probabilities: p, shape (n,), sums to 1
    :param share: in (0, 1]
    """
    z = checks.finite("values", values, ndim=1)
    p = checks.stochastic("probabilities", probabilities, z.shape)
    share = checks.number("share", share, 0, 1)
    if share == 0:
        raise ValueError("share must be positive: a share of 0 has no mean; the smallest probability gives max Z")
    order = np.argsort(-z, kind="stable")
    taken = np.diff(np.minimum(np.cumsum(p[order]), share), prepend=0.0)  # of each outcome's mass, the largest Z first
    return float(taken @ z[order] / taken.sum())
