"""The worst case of a mean over a chi-square ball, which the std term stands for."""

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
