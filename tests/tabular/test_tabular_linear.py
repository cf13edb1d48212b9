"""The linear layer against the tabular one, finite differences, scipy, and textbook counterexamples."""

import numpy as np
import pytest
from scipy.optimize import minimize

from sb3_offline.tabular import (
    LinearDromo,
    combo_update,
    lstd_q,
    policy_evaluation,
    projected_fqi_update,
    random_mdp,
    random_policy,
    strict_dromo_update,
)


def random_linear(rng, n_pairs=12, k=4, alpha=0.6, beta=0.3, constant=True):
    features = rng.normal(size=(n_pairs, k))
    if constant:
        features[:, 0] = 1
    d, rho = rng.dirichlet(np.ones(n_pairs), 2)
    return LinearDromo(features, d, rho, rng.uniform(0.2, 0.8), beta, alpha, n=9), rng.normal(size=n_pairs)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 30.0])
def test_identity_features_are_the_table(alpha):
    rng = np.random.default_rng(0)
    d, rho = rng.dirichlet(np.ones(6), 2)
    y = rng.normal(size=6)
    omega = LinearDromo(np.eye(6), d, rho, 0.4, 0.3, alpha, n=4).exact_update(y)
    table = [x.reshape(2, 3) for x in (y, d, rho)]
    assert omega.reshape(2, 3) == pytest.approx(strict_dromo_update(*table, 4, 0.4, 0.3, alpha), abs=1e-11)
    if alpha == 0:
        assert omega.reshape(2, 3) == pytest.approx(combo_update(*table, 0.4, 0.3), abs=1e-12)


def test_lstd_with_identity_features_is_policy_evaluation():
    rng = np.random.default_rng(0)
    mdp, pi = random_mdp(rng), random_policy(rng, 6, 3)
    pairs = np.einsum("sat,tb->satb", mdp.kernel, pi).reshape(18, 18)
    weights = rng.dirichlet(np.ones(18))
    omega, condition = lstd_q(np.eye(18), pairs, mdp.rewards.ravel(), weights, mdp.gamma)
    assert omega == pytest.approx(policy_evaluation(mdp, pi).ravel(), abs=1e-10)
    assert condition > 1


def test_lstd_is_the_fixed_point_of_projected_fqi():
    rng = np.random.default_rng(1)
    kernel, rewards = rng.dirichlet(np.ones(10), 10), rng.normal(size=10)
    features, weights = rng.normal(size=(10, 3)), np.full(10, 0.1)
    omega, _ = lstd_q(features, kernel @ features, rewards, weights, 0.5)
    again = projected_fqi_update(features, rewards + 0.5 * kernel @ features @ omega, weights)
    assert again == pytest.approx(omega, abs=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 5 / 6, 0.9])
def test_tsitsiklis_van_roy(gamma):
    features, following, weights = np.array([[1.0], [2.0]]), np.array([[2.0], [2.0]]), np.array([0.5, 0.5])
    factor = projected_fqi_update(features, gamma * following[:, 0], weights)
    assert factor == pytest.approx([6 * gamma / 5], abs=1e-14)
    if gamma == 5 / 6:
        with pytest.raises(ValueError, match="condition number"):
            lstd_q(features * 0, following * 0, [1, 1], weights, gamma)
    else:
        a = 2.5 / lstd_q(features, following, features[:, 0], weights, gamma).omega[0]
        assert a == pytest.approx(2.5 - 3 * gamma, abs=1e-12)


def test_finite_difference_gradient():
    rng = np.random.default_rng(2)
    for _ in range(20):
        linear, y = random_linear(rng)
        omega = rng.normal(size=4)
        numeric = [(linear.objective(y, omega + 1e-5 * e) - linear.objective(y, omega - 1e-5 * e)) / 2e-5 for e in np.eye(4)]
        assert linear.gradient(y, omega) == pytest.approx(numeric, abs=1e-8)


def test_objective_is_the_one_over_pairs():
    rng = np.random.default_rng(3)
    linear, y = random_linear(rng)
    omega = rng.normal(size=4)
    q = linear.features @ omega
    std = np.sqrt(linear.d_f @ (q - linear.d_f @ q) ** 2)
    full = 0.5 * linear.d_f @ (q - y) ** 2 + 0.3 * linear.g @ q + 0.6 / 3 * std
    assert linear.objective(y, omega) == pytest.approx(full - 0.5 * linear.d_f @ y**2, abs=1e-12)


def test_exact_update_is_the_minimiser_and_the_lagged_one_is_not():
    rng = np.random.default_rng(4)
    for alpha in (0.3, 1.0, 3.0):
        for constant in (True, False):
            linear, y = random_linear(rng, alpha=alpha, constant=constant)
            omega = linear.exact_update(y)
            found = minimize(lambda w, p=linear, y=y: p.objective(y, w), rng.normal(size=4), method="Nelder-Mead",
                             options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 20_000, "maxfev": 20_000})  # fmt: skip
            assert linear.objective(y, omega) <= found.fun + 1e-12
            assert linear.objective(y, omega) == pytest.approx(found.fun, abs=1e-7)
            lagged = linear.lagged_update(y, rng.normal(size=4))
            assert linear.objective(y, lagged) > linear.objective(y, omega)
            if linear.sigma(omega) > 1e-9:
                assert np.abs(linear.gradient(y, omega)).max() < 1e-10
                assert linear.lagged_update(y, omega) == pytest.approx(omega, abs=1e-8)  # its fixed point


def test_without_a_root_only_what_is_constant_remains():
    rng = np.random.default_rng(5)
    linear, y = random_linear(rng, alpha=1e3)
    omega = linear.exact_update(y)
    z_mean = linear.d_f @ y  # g sums to 0, so beta plays no part
    assert linear.features @ omega == pytest.approx(np.full(12, z_mean), abs=1e-12)
    free, y = random_linear(rng, alpha=1e3, constant=False)  # no constant among the features: 0 is all there is
    assert free.exact_update(y) == pytest.approx(np.zeros(4), abs=1e-12)


def test_thm_45_from_both_sides():
    rng = np.random.default_rng(6)
    tested = 0
    for _ in range(100):
        linear, y = random_linear(rng)
        start, t_pi, omega = rng.dirichlet(np.ones(12)), y + 0.1 * rng.normal(size=12), rng.normal(size=4)
        try:
            threshold = linear.lower_bound_weight(start, t_pi, y, omega)
        except ValueError as error:
            assert "not positive" in str(error)  # noqa: PT017
            continue
        for step in (-1e-6, 1e-6):
            if threshold + step >= 0:
                linear.beta = threshold + step
                held = start @ linear.features @ linear.lagged_update(y, omega) <= start @ t_pi
                assert held == (step > 0)
                tested += 1
    assert tested > 30


def test_singular_matrices_name_their_condition_number():
    rng = np.random.default_rng(7)
    features = rng.normal(size=(6, 3))
    features[:, 2] = features[:, 0] + features[:, 1]
    d = np.full(6, 1 / 6)
    with pytest.raises(ValueError, match=r"M = F\^T D_f F is singular: its condition number is"):
        LinearDromo(features, d, d, 0.5, 0.1, 0.1, n=4)
    assert np.isfinite(LinearDromo(features, d, d, 0.5, 0.1, 0.1, n=4, ridge=1e-6).exact_update(np.ones(6))).all()
    with pytest.raises(ValueError, match="condition number"):
        projected_fqi_update(features, np.ones(6), d)
    with pytest.raises(ValueError, match="condition number"):
        lstd_q(features, features, np.ones(6), d, 0.9)
    with pytest.raises(ValueError, match="gamma"):
        lstd_q(np.eye(6), np.eye(6), np.ones(6), d, 1.0)
    with pytest.raises(ValueError, match="rho must sum to 1"):
        LinearDromo(np.eye(6), d, d / 2, 0.5, 0.1, 0.1, n=4)
