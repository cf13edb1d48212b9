"""How far predicted probabilities are from what happened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CalibrationError:
    """
    The calibration curve p^_j, the share of held-out rows below the forecast's p_j-quantile, against the diagonal.

    ``squared`` is sum_j (p_j - p^_j)^2 (Kuleshov et al. 2018, Eq 9), ``debiased`` the same with each term's expected excess
    p^_j (1 - p^_j) / (T - 1) taken off (Kumar et al. 2019), ``l1`` the mean of |p_j - p^_j|, ``ks`` the largest distance of
    the empirical distribution of the PITs to the uniform one.
    """

    levels: tuple[float, ...]
    observed: tuple[float, ...]
    squared: float
    debiased: float
    l1: float
    ks: float


def calibration_error(pit: np.ndarray, n_levels: int = 19) -> CalibrationError:
    """
    :param pit: (T,) probability integral transforms of held-out rows, T >= 2
    :param n_levels: levels p_j, evenly spaced inside (0, 1)
    """
    n_rows = len(pit)
    levels = np.arange(1, n_levels + 1) / (n_levels + 1)
    observed = (pit[:, None] <= levels).mean(axis=0)
    ordered = np.sort(pit)
    above, below = np.arange(1, n_rows + 1) / n_rows - ordered, ordered - np.arange(n_rows) / n_rows
    return CalibrationError(
        levels=tuple(levels.tolist()),
        observed=tuple(observed.tolist()),
        squared=float(np.square(levels - observed).sum()),
        debiased=float(debiased_square(levels, observed, n_rows).sum()),
        l1=float(np.abs(levels - observed).mean()),
        ks=float(max(above.max(), below.max())),
    )


def debiased_square(level: np.ndarray, observed: np.ndarray, n_rows: int) -> np.ndarray:
    """(p - p^)^2 - p^ (1 - p^) / (T - 1), whose expectation is (p - P)^2 when T p^ ~ Binomial(T, P)."""
    return np.square(level - observed) - observed * (1 - observed) / (n_rows - 1)
