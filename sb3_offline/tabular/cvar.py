"""One exact Q-update of DROMO on a table, whose ambiguity set is a share of pi^f's mass: its section 6's chance constraint."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sb3_offline.tabular import checks
from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.updates import combo_update, mixture


def cvar_update(
    target: npt.ArrayLike,
    d: npt.ArrayLike,
    rho: npt.ArrayLike,
    pi_f: npt.ArrayLike,
    real_ratio: float,
    conservative_weight: float,
    share: float,
    *,
    q: npt.ArrayLike | None = None,
) -> Array:
    """
    COMBO's update z = y - beta g/d_f, then the worst case of E_{pi^f} Q paid for. It minimises per state
    1/2 sum_a d_f(s,a) (q_a - z_a)^2 + beta d_f(s) (sup_{w <= pi^f/share} E_w q - E_{pi^f} q).

    :param target: y, shape (S, A); d, rho, pi_f and q have the same shape
    :param pi_f: f pi_beta + (1 - f) pi
    :param real_ratio: f, the weight of real data
    :param conservative_weight: beta
    :param share: of pi^f's mass over which the sup takes the mean, in (0, 1]; 1 is COMBO
    :param q: the old values, ``target`` if None
    :raises ValueError: where d_f = 0 but rho != d, for a share of 0, or rows that do not sum to 1
    """
    z = combo_update(target, d, rho, real_ratio, conservative_weight, q=q)
    pi_f = checks.stochastic("pi_f", pi_f, z.shape)
    share = checks.number("share", share, 0, 1)
    if share == 0:
        raise ValueError("share must be positive: a share of 0 has no mean")
    d_f = mixture(np.asarray(d, dtype=np.float64), np.asarray(rho, dtype=np.float64), real_ratio)
    kappa = conservative_weight * d_f.sum(axis=1)
    return np.stack([_shrink_top(*row, share) if row[-1] > 0 else row[0] for row in zip(z, d_f, pi_f, kappa, strict=True)])


def _shrink_top(z: Array, weight: Array, policy: Array, kappa: float, share: float) -> Array:
    """
    argmin_q 1/2 sum_a D_a (q_a - z_a)^2 + kappa (max_w w.q - p.q) over 0 <= w <= p/share that sum to 1, of one state.

    At the minimiser D (q - z) = kappa (p - w). w is 0 below a level t and p/share above, so q_a(t) is t clipped to
    [z + kappa p (1 - 1/share)/D, z + kappa p/D], and the w that it stands for falls with t, in straight pieces, until its
    sum is 1. Where D = 0 < p nothing holds q: it is t, and w is p.
    """
    held = weight > 0
    high = z + np.divide(kappa * policy, weight, out=np.zeros_like(z), where=held)
    low = high - np.divide(kappa * policy, share * weight, out=np.zeros_like(z), where=held)
    levels = np.unique(np.concatenate([low[held], high[held]]))
    w = weight[held] * (high[held] - np.clip(levels[:, None], low[held], high[held])) / kappa
    level = np.interp(policy[held].sum(), w.sum(axis=1)[::-1], levels[::-1])
    return np.where(held | (policy == 0), np.clip(level, low, high), level)
