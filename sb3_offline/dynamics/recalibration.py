"""
Recalibrated predictive distributions, one dimension at a time.

The forecast is N(mu, sigma^2); z = (y - mu) / sigma are the standardised residuals of T held-out rows and u = Phi(z) their
probability integral transforms. A calibrator knows R(u), the probability that the truth lies below the forecast's
u-quantile, and its inverse on the scale of normal scores: if n ~ N(0, 1), then mu + sigma ``quantile(n)`` has the
recalibrated law. Everything is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch as th

CalibrationMethod = Literal["none", "std", "isotonic", "scaling-binning"]


class Calibrator(Protocol):
    """What the methods below have in common."""

    def quantile(self, scores: np.ndarray) -> np.ndarray:
        """z = Phi^{-1}(R^{-1}(Phi(n))) for normal scores n, shape kept."""

    def cdf(self, u: np.ndarray) -> np.ndarray:
        """R(u), in [0, 1], shape kept."""


@dataclass(frozen=True)
class StdScaler:
    """sigma <- s sigma with s^2 = mean z^2, the maximum-likelihood scale (Levi et al. 2022, section 4)."""

    scale: float

    @classmethod
    def fit(cls, z: np.ndarray) -> StdScaler:
        """:param z: (T,) standardised residuals"""
        return cls(float(np.sqrt(np.mean(np.square(z)))))

    def quantile(self, scores: np.ndarray) -> np.ndarray:
        return self.scale * scores

    def cdf(self, u: np.ndarray) -> np.ndarray:
        return normal_cdf(normal_quantile(u) / self.scale)


@dataclass(frozen=True)
class PiecewiseCDF:
    """R as straight lines between knots on the scale of normal scores, constant beyond the last ones; both increase."""

    z: np.ndarray
    scores: np.ndarray  # Phi^{-1}(R) at the knots

    def quantile(self, scores: np.ndarray) -> np.ndarray:
        return np.interp(scores, self.scores, self.z)

    def cdf(self, u: np.ndarray) -> np.ndarray:
        return normal_cdf(np.interp(normal_quantile(u), self.z, self.scores))


class IsotonicCDF(PiecewiseCDF):
    """
    R by isotonic regression of the empirical rank on u, clipped to [1/2T, 1 - 1/2T] (Kuleshov, Fenner, Ermon 2018). z serves
    as abscissa: a monotone transform of u does not change the fit, and it does not saturate.
    """

    @classmethod
    def fit(cls, z: np.ndarray) -> IsotonicCDF:
        """
        :param z: (T,) standardised residuals
        :raises ImportError: if scikit-learn is not installed
        """
        z = np.sort(z)
        n_rows = len(z)
        ranks = isotonic(z, np.arange(1, n_rows + 1) / n_rows)
        return cls(*_strictly_increasing(z, ranks.clip(0.5 / n_rows, 1 - 0.5 / n_rows)))


class ScalingBinning(PiecewiseCDF):
    """
    The scaling-binning calibrator (Kumar, Liang, Ma 2019) for a CDF. On one third of the rows a scaler g, logistic in
    logit u, is fitted to the empirical rank; the second third gives bins of g of equal mass; on the last third each bin's
    output is the mean of g, not of the labels. Straight lines between the bins keep R invertible, and g itself leads on to
    1/2T and 1 - 1/2T.
    """

    @classmethod
    def fit(cls, z: np.ndarray, n_bins: int = 10) -> ScalingBinning:
        """:param z: (T,) standardised residuals, in random order"""
        third, binning, averaging = np.array_split(z, 3)
        third = np.sort(third)
        slope, intercept = fit_logistic(logit_cdf(third), (np.arange(len(third)) + 0.5) / len(third))

        def scaler(values: np.ndarray) -> np.ndarray:
            return sigmoid(slope * logit_cdf(values) + intercept)

        edges = equal_mass_edges(scaler(binning), n_bins)
        bins = np.searchsorted(edges, scaler(averaging))
        filled = [averaging[bins == b] for b in range(n_bins) if (bins == b).any()]
        ends = np.array([0.5, len(z) - 0.5]) / len(z)
        end_z = quantile_of_logit((logit(ends) - intercept) / slope)
        knots_z = [end_z[0], *(rows.mean() for rows in filled), end_z[1]]
        knots_p = [ends[0], *(scaler(rows).mean() for rows in filled), ends[1]]
        order = np.argsort(knots_z)
        return cls(*_strictly_increasing(np.asarray(knots_z)[order], np.maximum.accumulate(np.asarray(knots_p)[order])))


def fit_calibrator(method: CalibrationMethod, z: np.ndarray) -> Calibrator:
    """:param z: (T,) standardised residuals, in random order"""
    if method == "std":
        return StdScaler.fit(z)
    return IsotonicCDF.fit(z) if method == "isotonic" else ScalingBinning.fit(z)


def isotonic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """
    The increasing values nearest to y in squares, for sorted x.

    :raises ImportError: if scikit-learn is not installed
    """
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError as error:
        raise ImportError(
            "calibration='isotonic' needs scikit-learn: pip install \"sb3-offline[calibration]\", or choose 'std' or "
            "'scaling-binning'."
        ) from error
    return IsotonicRegression().fit_transform(x, y)


def equal_mass_edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """(n_bins - 1,) edges midway between neighbours, so that each bin holds as many values as the next."""
    values = np.sort(values)
    cuts = np.round(np.arange(1, n_bins) * len(values) / n_bins).astype(int).clip(1, len(values) - 1)
    return 0.5 * (values[cuts - 1] + values[cuts])


def bin_means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n_bins,) mean of the values of each bin, NaN for an empty one: what a scaling-binning calibrator outputs."""
    bins = np.searchsorted(edges, values)
    counts = np.bincount(bins, minlength=len(edges) + 1)
    with np.errstate(invalid="ignore"):
        return np.bincount(bins, weights=values, minlength=len(edges) + 1) / counts


def fit_logistic(x: np.ndarray, targets: np.ndarray, n_steps: int = 50) -> tuple[float, float]:
    """
    Slope a and intercept b of sigmoid(a x + b), by Newton's method with halved steps on the cross-entropy (Platt 1999).

    :param x: (T,)
    :param targets: (T,) in [0, 1]
    """
    design = np.stack([x, np.ones_like(x)], axis=1)
    ridge = 1e-6 * np.eye(2)  # keeps separable targets finite

    def loss(w: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, design @ w) - targets * (design @ w)) + 0.5 * w @ ridge @ w)

    weights = np.array([0.0, 0.0])
    for _ in range(n_steps):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - targets) / len(x) + ridge @ weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design / len(x) + ridge
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(weights - size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def normal_cdf(z: np.ndarray) -> np.ndarray:
    return th.special.ndtr(th.as_tensor(z, dtype=th.float64)).numpy()


def normal_quantile(p: np.ndarray) -> np.ndarray:
    return th.special.ndtri(th.as_tensor(p, dtype=th.float64)).numpy()


def logit_cdf(z: np.ndarray) -> np.ndarray:
    """logit Phi(z), exact where Phi(z) rounds to 0 or 1."""
    scores = th.as_tensor(z, dtype=th.float64)
    return (th.special.log_ndtr(scores) - th.special.log_ndtr(-scores)).numpy()


def quantile_of_logit(x: np.ndarray) -> np.ndarray:
    """The inverse of :func:`logit_cdf`, by the tail that does not round to 1."""
    return -np.sign(x) * normal_quantile(sigmoid(-np.abs(x)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return th.sigmoid(th.as_tensor(x, dtype=th.float64)).numpy()


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def _strictly_increasing(z: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots (z, normal score of p): of equal z the mean p, of equal p the mean z."""
    z, group = np.unique(z, return_inverse=True)
    p = np.bincount(group, weights=p) / np.bincount(group)
    p, group = np.unique(p, return_inverse=True)
    return np.bincount(group, weights=z) / np.bincount(group), normal_quantile(p)
