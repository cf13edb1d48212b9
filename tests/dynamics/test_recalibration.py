"""Calibrators against laws that are known in closed form."""

import builtins
import itertools
import math

import numpy as np
import pytest

from sb3_offline.dynamics.calibration_metrics import calibration_error, debiased_square
from sb3_offline.dynamics.recalibration import (
    IsotonicCDF,
    ScalingBinning,
    StdScaler,
    bin_means,
    equal_mass_edges,
    fit_logistic,
    isotonic,
    logit_cdf,
    normal_cdf,
    quantile_of_logit,
)

CALIBRATORS = [StdScaler, IsotonicCDF, ScalingBinning]


def overconfident(n: int, factor: float = 2.0, seed: int = 0) -> np.ndarray:
    """Standardised residuals of a forecast whose sigma is ``factor`` times too small."""
    return factor * np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_half_the_sigma_is_found_out(calibrator):
    """sigma^ = sigma / 2: R(p) = Phi(Phi^{-1}(p) / 2), so R(.9) = .7391658 and recalibrated samples have std 2 sigma^."""
    fitted = calibrator.fit(overconfident(30_000))
    tolerance = 0.025 if calibrator is ScalingBinning else 0.012  # a logistic curve is not quite a Gaussian's
    assert fitted.cdf(np.array([0.9, 0.5, 0.1])) == pytest.approx([0.7391658, 0.5, 1 - 0.7391658], abs=tolerance)
    samples = fitted.quantile(np.random.default_rng(1).normal(size=100_000))
    assert samples.std() == pytest.approx(2.0, rel=0.04)
    assert samples.mean() == pytest.approx(0.0, abs=0.06)


def test_std_scaler_in_closed_form():
    fitted = StdScaler.fit(np.array([2.0, -2.0, 2.0, -2.0]))
    assert fitted.scale == 2
    assert fitted.cdf(np.array([0.9]))[0] == pytest.approx(0.7391658, abs=1e-7)
    assert fitted.quantile(np.array([-1.5])) == [-3.0]


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_quantile_inverts_cdf(calibrator):
    fitted = calibrator.fit(np.sinh(overconfident(3000, factor=1.2, seed=3)))
    scores = np.linspace(-1.5, 1.5, 31)
    assert (np.diff(fitted.quantile(scores)) > 0).all()
    assert fitted.cdf(normal_cdf(fitted.quantile(scores))) == pytest.approx(normal_cdf(scores), abs=1e-9)


def test_isotonic_regression_pools_violators():
    assert isotonic(np.array([0.0, 1.0]), np.array([1.0, 0.0])).tolist() == [0.5, 0.5]
    assert isotonic(np.arange(5.0), np.array([1.0, 3.0, 2.0, 2.0, 5.0])) == pytest.approx([1, 7 / 3, 7 / 3, 7 / 3, 5])


def test_isotonic_cdf_is_clipped_to_half_a_row():
    fitted = IsotonicCDF.fit(np.array([-1.0, 0.0, 1.0, 2.0]))
    assert fitted.cdf(np.array([0.0, 1.0])) == pytest.approx([0.25, 1 - 1 / 8])  # the lowest rank is 1/T
    assert fitted.quantile(np.array([-50.0, 50.0])).tolist() == [-1, 2]  # never beyond what was seen


def test_isotonic_cdf_recovers_a_shift_and_a_skew():
    """z = exp(n) - 1.2 is no Gaussian; the map is n itself."""
    n = np.random.default_rng(0).normal(size=20_000)
    fitted = IsotonicCDF.fit(np.exp(n) - 1.2)
    scores = np.array([-1.5, -0.5, 0.0, 0.7, 1.5])
    assert fitted.quantile(scores) == pytest.approx(np.exp(scores) - 1.2, abs=0.12)


def test_scikit_learn_is_asked_for_by_name(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install \"sb3-offline\[calibration\]\""):
        IsotonicCDF.fit(np.zeros(3))


def test_equal_mass_bins_output_the_mean_of_g():
    """g = (.1, .2, .6, .8) in two bins: edge .4, outputs .15 and .7."""
    g = np.array([0.1, 0.2, 0.6, 0.8])
    edges = equal_mass_edges(g, 2)
    assert edges == pytest.approx([0.4])
    assert bin_means(g, edges) == pytest.approx([0.15, 0.7])


def test_scaling_binning_outputs_means_of_the_scaler():
    """The interior knots are bins' means of g on the last third; g is re-derived here."""
    z = overconfident(300, seed=5)
    fitted = ScalingBinning.fit(z, n_bins=4)
    first, second, third = z[:100], z[100:200], z[200:]
    slope, intercept = fit_logistic(logit_cdf(np.sort(first)), (np.arange(100) + 0.5) / 100)

    def g(values):
        return 1 / (1 + np.exp(-(slope * logit_cdf(values) + intercept)))

    expected = bin_means(g(third), equal_mass_edges(g(second), 4))
    assert normal_cdf(fitted.scores)[1:-1] == pytest.approx(expected, abs=1e-9)
    assert normal_cdf(fitted.scores)[[0, -1]] == pytest.approx([1 / 600, 1 - 1 / 600])


def test_logit_of_the_cdf_does_not_saturate():
    z = np.array([-30.0, -1.0, 0.0, 0.5, 12.0])
    assert logit_cdf(z)[1] == pytest.approx(math.log(0.15865525 / 0.84134475), abs=1e-6)
    assert quantile_of_logit(logit_cdf(z)) == pytest.approx(z, abs=1e-9)


def test_logistic_fit_recovers_its_parameters():
    x = np.linspace(-4, 4, 400)
    slope, intercept = fit_logistic(x, 1 / (1 + np.exp(-(1.7 * x - 0.6))))
    assert (slope, intercept) == pytest.approx((1.7, -0.6), abs=1e-4)
    assert math.isfinite(fit_logistic(x, (x > 0).astype(float))[0])  # separable


def test_debiased_square_is_unbiased():
    """All 16 outcomes of T = 4 rows with P = .3 at p = .5: the expectation is exactly (.5 - .3)^2 = .04; plain, .0925."""
    debiased = plain = 0.0
    for rows in itertools.product((0, 1), repeat=4):
        weight = 0.3 ** sum(rows) * 0.7 ** (4 - sum(rows))
        observed = np.array(sum(rows) / 4)
        debiased += weight * float(debiased_square(np.array(0.5), observed, 4))
        plain += weight * float((0.5 - observed) ** 2)
    assert debiased == pytest.approx(0.04, abs=1e-12)
    assert plain == pytest.approx(0.04 + 0.3 * 0.7 / 4, abs=1e-12)


def test_calibration_error_by_hand():
    """PITs .2, .2, .9 at level 1/2: observed 2/3."""
    error = calibration_error(np.array([0.2, 0.2, 0.9]), n_levels=1)
    assert error.observed == pytest.approx([2 / 3])
    assert error.squared == pytest.approx(1 / 36)
    assert error.debiased == pytest.approx(1 / 36 - 1 / 9)
    assert error.l1 == pytest.approx(1 / 6)
    assert error.ks == pytest.approx(2 / 3 - 0.2)  # the empirical distribution is 2/3 at .2


def test_calibration_error_of_uniform_pits_vanishes():
    error = calibration_error((np.arange(1000) + 0.5) / 1000)
    assert error.squared < 1e-6
    assert error.ks == pytest.approx(0.0005)
