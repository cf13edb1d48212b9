"""One exact Q-update of CQL and COMBO on a table: the minimiser of each paper's own objective."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_offline.tabular import checks
from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.operators import boltzmann


def cql_update(
    target: npt.ArrayLike,
    mu: npt.ArrayLike,
    pi_beta: npt.ArrayLike,
    conservative_weight: float,
    *,
    subtract_behavior: bool = False,
    q: npt.ArrayLike | None = None,
) -> Array:
    """
    Q = y - alpha mu/pi_beta (Kumar et al. 2020, Eq 1 -> Eq 11), or y - alpha (mu/pi_beta - 1) with the data term.

    All arrays are (S, A). Where pi_beta = mu = 0 the objective does not see the entry, and it keeps its old value.

    :param target: y = T~Q
    :param mu: the distribution whose Q-values are pushed down
    :param pi_beta: the behaviour policy
    :param conservative_weight: alpha
    :param subtract_behavior: also add -alpha E_pi_beta Q to the objective
    :param q: the old values, ``target`` if None
    :raises ValueError: where pi_beta = 0 < mu, naming the pair: the objective has no minimum there
    """
    y = checks.finite("target", target)
    mu = checks.stochastic("mu", mu, y.shape)
    pi_beta = checks.stochastic("pi_beta", pi_beta, y.shape)
    alpha = checks.number("conservative_weight", conservative_weight)
    unsupported = (pi_beta == 0) & (mu > 0)
    if alpha > 0 and unsupported.any():
        raise ValueError(
            f"pi_beta is 0 but mu is not at {checks.first(unsupported)}: CQL's objective is unbounded below there. "
            "Restrict mu to the support of pi_beta, or smooth pi_beta"
        )
    seen = pi_beta > 0
    ratio = np.divide(mu, pi_beta, out=np.zeros_like(y), where=seen)
    return np.where(seen, y - alpha * (ratio - subtract_behavior), _old(q, y))


def cql_h_update(
    target: npt.ArrayLike, pi_beta: npt.ArrayLike, conservative_weight: float, max_iterations: int = 200
) -> Array:
    """
    CQL(H): per state min_q alpha (logsumexp q - pi_beta.q) + 1/2 sum_a pi_beta_a (q_a - y_a)^2, by damped Newton.

    The Hessian diag(alpha m + pi_beta) - alpha m m^T, m = softmax q, is a diagonal less a rank-one matrix, so that
    all states are solved at once. Arrays are (S, A). The minimiser keeps the data's mean: pi_beta.q = pi_beta.y.

    :raises ValueError: where pi_beta = 0, naming the pair: the objective falls for ever as that entry does
    """
    y = checks.finite("target", target)
    b = checks.stochastic("pi_beta", pi_beta, y.shape)
    alpha = checks.number("conservative_weight", conservative_weight)
    if alpha > 0 and (b == 0).any():
        raise ValueError(f"pi_beta is 0 at {checks.first(b == 0)}: CQL(H) has no minimum there. Smooth pi_beta")
    q = y.copy()
    rows = np.arange(len(y)) if alpha > 0 else np.arange(0)
    for _ in range(max_iterations):
        if not rows.size:
            return q
        x, y_r, b_r = q[rows], y[rows], b[rows]
        m = boltzmann(x, 1.0)
        gradient = alpha * (m - b_r) + b_r * (x - y_r)
        diagonal = alpha * m + b_r
        # Sherman-Morrison; 1 - alpha sum m^2/diagonal is written as a sum of positive terms.
        scale = alpha * (m * gradient / diagonal).sum(1) / (m * b_r / diagonal).sum(1)
        step = (gradient + m * scale[:, None]) / diagonal
        decrease = (gradient * step).sum(1)
        size = np.ones(len(rows))
        value = _cql_h_objective(x, y_r, b_r, alpha)
        done = decrease <= 1e-15 * (1 + np.abs(value))  # rounding hides any further decrease
        for _halving in range(60):
            tried = _cql_h_objective(x - size[:, None] * step, y_r, b_r, alpha)
            too_far = ~done & (tried > value - 1e-4 * size * decrease)
            if not too_far.any():
                break
            size[too_far] /= 2
        q[rows] = x - size[:, None] * step
        rows = rows[~done]
    raise RuntimeError(f"CQL(H) did not converge in {max_iterations} Newton steps at state {rows[0]}")


def combo_update(
    target: npt.ArrayLike,
    d: npt.ArrayLike,
    rho: npt.ArrayLike,
    real_ratio: float,
    conservative_weight: float,
    *,
    q: npt.ArrayLike | None = None,
) -> Array:
    """
    Q = y - beta (rho - d)/d_f with d_f = f d + (1 - f) rho (Yu et al. 2021; DROMO Eq 8).

    All arrays are (S, A). Where d_f = rho - d = 0 the entry keeps its old value.

    :param target: y, see :func:`~sb3_offline.tabular.operators.mixed_target`
    :param d: the dataset's distribution over pairs
    :param rho: the rollouts' distribution over pairs
    :param real_ratio: f, the weight of real data, in [0, 1]
    :param conservative_weight: beta
    :param q: the old values, ``target`` if None
    :raises ValueError: where d_f = 0 but rho != d, naming the pair: the objective is unbounded below
    """
    y = checks.finite("target", target)
    d = checks.visitation("d", d, y.shape)
    rho = checks.visitation("rho", rho, y.shape)
    beta = checks.number("conservative_weight", conservative_weight)
    d_f = mixture(d, rho, real_ratio)
    unbounded = (d_f == 0) & (rho != d)
    if beta > 0 and unbounded.any():
        raise ValueError(
            f"d_f is 0 but rho - d is {(rho - d)[unbounded][0]:g} at {checks.first(unbounded)}: the objective is "
            "unbounded there. Take real_ratio strictly between 0 and 1"
        )
    penalty = np.divide(rho - d, d_f, out=np.zeros_like(y), where=d_f > 0)  # g/d_f, in [-1/f, 1/(1-f)]
    return np.where(d_f > 0, y - beta * penalty, _old(q, y))


def mixture(d: Array, rho: Array, real_ratio: float) -> Array:
    """d_f = f d + (1 - f) rho; likewise pi^f = f pi_beta + (1 - f) pi."""
    f = checks.number("real_ratio", real_ratio, 0, 1)
    return f * d + (1 - f) * rho


def _old(q: npt.ArrayLike | None, target: Array) -> Array:
    return target if q is None else checks.finite("q", q, target.shape)


def _cql_h_objective(q: Array, y: Array, b: Array, alpha: float) -> Array:
    top = q.max(axis=1)
    logsumexp = top + np.log(np.exp(q - top[:, None]).sum(axis=1))
    return alpha * (logsumexp - (b * q).sum(axis=1)) + 0.5 * (b * (q - y) ** 2).sum(axis=1)
