"""Claims of the DROMO paper's assumptions and appendices, and of the replay critic, against numbers derived by hand."""

import numpy as np
import pytest

from sb3_offline.tabular import appendix
from sb3_offline.tabular.replay_critic import N_HIDDEN, lyapunov, random_critic


def rng():
    return np.random.default_rng(0)


def test_remark_a3_calibrated_and_wrong_at_every_state():
    """(I - .9 P)^-1 (1, -1): the second eigenvector of P, eigenvalue .9, so 1/(1 - .81); of P^ with eigenvalue 0, so 1."""
    case = appendix.pointwise_calibration()
    assert case.calibration_error == 0
    assert case.true_values == pytest.approx([1 / 0.19, -1 / 0.19])
    assert case.model_values == pytest.approx([1, -1])
    assert case.returns == pytest.approx((0, 0), abs=1e-12)


def test_assumption_c1_has_no_floor():
    assert appendix.variance_floor() == (0, 0)


def test_assumption_21_is_about_the_rows():
    """Independent rows keep within delta; rows counted 20 times claim 20 times the data, and fail by sqrt(20)."""
    rates = appendix.sampling_error(rng(), 200)
    assert rates.independent <= 0.05
    assert rates.copied > 0.9


def test_lemma_c4_depends_on_the_reading():
    rates = appendix.lemma_c4(rng(), 5000)
    assert rates.supremum <= rates.root_mean_square <= 1
    assert rates.supremum > 0.5  # the bound is not idle
    assert rates.minimum_broken > 0.01
    assert rates.rho_average_broken == 0


def test_lemma_c4_with_a_rho_average_in_numbers():
    """
    kappa = 4. Left: .1/(.5 x .01) x .5 = 10 from state 1, .9/.5 x 2e-4 from state 0. Right: 2 sqrt(2 (.81/.9999 + 100))
    times the average .9 x 2e-4 + .1 x .5.
    """
    left = 10 + 0.9 / (0.5 * np.sqrt(0.9999)) * 1e-4
    right = 2 * np.sqrt(2 * (0.81 / 0.9999 + 100)) * (0.9 * 2e-4 + 0.05)
    assert appendix.lemma_c4_average() == pytest.approx(left / right, rel=1e-3)
    assert appendix.lemma_c4_average() > 7


def test_cor_c3_threshold():
    """The exact threshold is an identity; the printed one suffices at random, and fails where Q leaves its range."""
    rates = appendix.value_threshold(rng(), 40, beta=3.0)
    assert rates.identity < 1e-10
    assert 0 < rates.met < 1
    assert rates.broken == 0
    case = appendix.below_the_range()
    assert case.weight > 5 * case.printed_threshold
    assert case.overestimate == pytest.approx(10.87, abs=0.01)
    assert case.lowest_q < -100
    # c by hand: nu = f sum g^2/d_f = .5 (.19^2/.895 + .19^2/.105), overlap .64/.99 + 4; the least std is state 1's, gap .8/2.
    nu = 0.5 * 0.19**2 * (1 / 0.895 + 1 / 0.105)
    assert case.printed_threshold == pytest.approx(
        0.2 * 0.5 * np.sqrt(2 * (0.64 / 0.99 + 4) / 100) / (0.4 * 0.1 * nu), rel=0.01
    )


def test_cor_c3_cap_drops_delta():
    assert appendix.weight_cap() == pytest.approx((0.1, 0.01))
    assert appendix.weight_cap(delta=0.0).line_above == 0


def test_thm_46_from_both_sides():
    rates = appendix.kernel_lower_bound(rng(), 120)
    assert rates.threshold_wrong == 0
    assert 0 < rates.effect_not_positive < 0.5


def test_lyapunov_step_of_the_replay_critic():
    rates = lyapunov(rng(), 100)
    assert rates.bound_broken == 0
    assert rates.cubic == pytest.approx(8, rel=0.02)
    assert rates.linear == pytest.approx(2, rel=0.02)
    assert rates.at_best > 0
    # Along the top direction w~ is multiplied by 1 - factor x 2.
    assert rates.below == pytest.approx((1 - 1.98) ** 2 - 1, rel=0.01)
    assert rates.above == pytest.approx((1 - 2.02) ** 2 - 1, rel=0.01)
    assert rates.grows[0] == 0 < rates.grows[1] < 0.2
    assert 0 < rates.excitation_lost < 1


def test_data_vector_is_the_gradient_of_the_residual():
    critic = random_critic(rng(), pivot=0.3)
    w = critic.best + 0.5
    steps = 1e-6 * np.eye(w.size)
    differences = np.stack([critic.residual(w + step) - critic.residual(w - step) for step in steps], axis=1) / 2e-6
    assert critic.data_vectors(w) == pytest.approx(differences, abs=1e-7)
    assert critic.residual(critic.best) == pytest.approx(critic.pivot)
    assert np.linalg.eigvalsh(critic.excitation(w))[-1] <= len(critic.z) / 4
    assert w[:N_HIDDEN].size == 3


def test_one_step_at_the_best_weights_is_the_constant_that_the_pivot_adds():
    critic = random_critic(rng(), pivot=0.3)
    d = critic.data_vectors(critic.best)
    moved = sum(row * p / (1 + row @ row) ** 2 for row, p in zip(d, critic.pivot, strict=True))
    assert critic.lyapunov_step(critic.best, 0.1) == pytest.approx(0.01 * moved @ moved)
