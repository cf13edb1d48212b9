"""One exact Q-update of DROMO on a table (Liu, Chen, Zhong; Eq 13, its Lemma 4.1 as printed, and the strict Eq 17)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from sb3_offline.tabular import checks
from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.updates import combo_update, mixture

DromoMode = Literal["exact", "paper"]


def dromo_update(
    target: npt.ArrayLike,
    d: npt.ArrayLike,
    rho: npt.ArrayLike,
    counts: npt.ArrayLike,
    pi_f: npt.ArrayLike,
    real_ratio: float,
    conservative_weight: float,
    robust_weight: float,
    mode: DromoMode = "exact",
    *,
    q: npt.ArrayLike | None = None,
) -> Array:
    """
    COMBO's update z = y - beta g/d_f, then the std of Q under pi^f paid for (DROMO Eq 13).

    ``exact`` minimises Eq 13: per state 1/2 sum_a d_f(s,a) (q_a - z_a)^2 + alpha d_f(s)/sqrt(n(s)) std_{pi^f}(q).
    ``paper`` is Lemma 4.1 as printed, for reproduction only: it shrinks towards zero, not towards the mean.

    :param target: y, shape (S, A); d, rho, pi_f and q have the same shape
    :param counts: n(s) >= 0, shape (S,); a state with n = 0 is the limit, all the spread goes
    :param pi_f: f pi_beta + (1 - f) pi
    :param real_ratio: f, the weight of real data
    :param conservative_weight: beta
    :param robust_weight: alpha; 0 is COMBO
    :param q: the old values, ``target`` if None: kept where the objective does not see an entry (d_f = g = 0, and
        pi^f = 0 or alpha = 0); Lemma 4.1 also takes its std there
    :raises ValueError: where d_f = 0 but rho != d, for negative counts, or rows that do not sum to 1
    """
    z = combo_update(target, d, rho, real_ratio, conservative_weight, q=q)
    pi_f = checks.stochastic("pi_f", pi_f, z.shape)
    counts = checks.non_negative("counts", counts, z.shape[:1])
    alpha = checks.number("robust_weight", robust_weight)
    d_f = mixture(np.asarray(d, dtype=np.float64), np.asarray(rho, dtype=np.float64), real_ratio)
    if mode == "exact":
        mass = alpha * d_f.sum(axis=1)
        infinite = np.full_like(counts, np.inf)
        kappa = np.where(mass > 0, np.divide(mass, np.sqrt(counts), out=infinite, where=counts > 0), 0.0)
        return shrink_spread(z, d_f, pi_f, kappa)
    if mode != "paper":
        raise ValueError(f"mode must be 'exact' or 'paper', got {mode!r}")
    lagged = np.asarray(target if q is None else q, dtype=np.float64)
    return np.where(d_f > 0, lemma_factor(lagged, pi_f, counts, alpha) * z, z)


def shrink_spread(z: Array, weight: Array, policy: Array, kappa: Array) -> Array:
    """
    Per state, argmin_q 1/2 sum_a D_a (q_a - z_a)^2 + kappa std_p(q): the proximal map of the std.

    With u = sigma/kappa the minimiser is q_a = (u D_a z_a + p_a V)/(u D_a + p_a), where V = p.q is the omega-weighted
    mean of z, omega_a = p_a D_a/(u D_a + p_a), and u is where sigma(u)/u = kappa. From kappa_max = lim_{u->0} sigma/u
    on, q collapses to the D-mean of z on p > 0. Where p = 0, q = z.

    :param z: shape (S, A); weight (D) and policy (p) have the same shape
    :param kappa: shape (S,), non-negative, may be infinite
    """
    inside = policy > 0
    mass = np.where(inside, weight, 0.0)
    # z counted from its heaviest action: the mean's distance to it is not lost to rounding, however heavy it is.
    origin = np.take_along_axis(z, mass.argmax(axis=1)[:, None], axis=1)
    offset = z - origin
    # With no mass under p (all of it on p = 0) every constant is a minimiser: the p-mean of z stands in.
    mean_weight = np.where(mass.sum(axis=1, keepdims=True) > 0, mass, policy)
    mean = (mean_weight * offset).sum(axis=1, keepdims=True) / mean_weight.sum(axis=1, keepdims=True)
    pull = np.divide((mass * (offset - mean)) ** 2, policy, out=np.zeros_like(z), where=inside)
    kappa_max = np.sqrt(pull.sum(axis=1))
    collapsed = (kappa > 0) & (kappa >= kappa_max)
    q = np.where(collapsed[:, None] & inside, origin + mean, z)
    rows = np.flatnonzero((kappa > 0) & ~collapsed)
    if rows.size:
        kept = origin[rows] + _spread_kept(offset[rows], mass[rows], policy[rows], kappa[rows])
        q[rows] = np.where(inside[rows], kept, z[rows])
    return q


def _spread_kept(z: Array, mass: Array, policy: Array, kappa: Array) -> Array:
    """
    Solve |e(u)|_p = kappa with e = (q - V)/u, for 0 < kappa < kappa_max = |e(0)|_p.

    This is the secular equation of a trust-region problem (the dual: a quadratic over the ball |e|_p <= kappa), whose
    1/|e(u)|_p is increasing and concave: Newton's method on it climbs from u = 0 to the root without overshooting.
    """
    u = np.zeros_like(kappa)
    for _ in range(200):
        value, e, curvature = _dual(z, mass, policy, u)
        norm = np.sqrt(np.einsum("sa,sa,sa->s", policy, e, e))
        u += (norm - kappa) * norm**2 / (kappa * curvature)
        if (norm - kappa <= 1e-9 * kappa).all():  # and the step just made squares that
            break
    value, e, _ = _dual(z, mass, policy, u)
    return value[:, None] + u[:, None] * e


def _dual(z: Array, mass: Array, policy: Array, u: Array) -> tuple[Array, Array, Array]:
    """V(u), e(u) and -|e| d|e|/du, the last as a sum of squares."""
    # The smallest float keeps 0/0 away where D = p = 0; e and omega are 0 there.
    shrink = mass / (u[:, None] * mass + policy + np.finfo(np.float64).tiny)
    omega = policy * shrink
    total = omega.sum(axis=1)
    value = np.einsum("sa,sa->s", omega, z) / total
    e = shrink * (z - value[:, None])
    centred = e - (np.einsum("sa,sa->s", omega, e) / total)[:, None]
    return value, e, np.einsum("sa,sa,sa->s", omega, centred, centred)


def lemma_factor(q: Array, pi_f: Array, counts: Array, robust_weight: float) -> Array:
    """Lemma 4.1's c = 1 - lambda/(lambda + sigma sqrt n), lambda = alpha (1 - pi^f), shape (S, A); 1 if lambda = 0."""
    penalty = robust_weight * (1 - pi_f)
    denominator = penalty + (policy_std(q, pi_f) * np.sqrt(counts))[:, None]
    return 1 - np.divide(penalty, denominator, out=np.zeros_like(q), where=penalty > 0)


def policy_std(q: Array, policy: Array) -> Array:
    """The standard deviation of Q(s,.) under the policy, shape (S,)."""
    value = (policy * q).sum(axis=1, keepdims=True)
    return np.sqrt((policy * (q - value) ** 2).sum(axis=1))


def dromo_objective(q: Array, z: Array, weight: Array, policy: Array, kappa: Array) -> Array:
    """Eq 13 per state up to a constant: 1/2 sum_a D_a (q_a - z_a)^2 + kappa std_p(q), shape (S,)."""
    return 0.5 * (weight * (q - z) ** 2).sum(axis=1) + kappa * policy_std(q, policy)


def strict_dromo_update(
    target: npt.ArrayLike,
    d: npt.ArrayLike,
    rho: npt.ArrayLike,
    n: float,
    real_ratio: float,
    conservative_weight: float,
    robust_weight: float,
    *,
    q: npt.ArrayLike | None = None,
) -> Array:
    """
    The strict form (DROMO Eq 17): the std of Q over all pairs under d_f, in closed form
    q = m + (1 - alpha/(sqrt(n) sigma_z))_+ (z - m), with m and sigma_z the mean and std of z under d_f.

    Arrays are (S, A); d and rho must be complete distributions, for the mean runs over all pairs.

    :param n: the number of transitions |D| > 0; the other arguments are as in :func:`dromo_update`
    :raises ValueError: as :func:`dromo_update`, or if d or rho do not sum to 1
    """
    z = combo_update(target, d, rho, real_ratio, conservative_weight, q=q)
    d = checks.visitation("d", d, z.shape, complete=True)
    rho = checks.visitation("rho", rho, z.shape, complete=True)
    alpha = checks.number("robust_weight", robust_weight)
    if not n > 0:
        raise ValueError(f"n must be a positive number of transitions, got {n}")
    d_f = mixture(d, rho, real_ratio)
    mean = (d_f * z).sum() / d_f.sum()
    sigma = np.sqrt((d_f * (z - mean) ** 2).sum())
    threshold = alpha / np.sqrt(n)
    factor = 1 - threshold / sigma if sigma > threshold else float(alpha == 0)
    return np.where(d_f > 0, mean + factor * (z - mean), z)
