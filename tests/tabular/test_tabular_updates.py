"""CQL and COMBO on tables: the values worked out by hand, and scipy's minimiser of the printed objectives."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from sb3_offline.tabular import combo_update, cql_h_update, cql_update, mixture


def test_cql_by_hand():
    q = cql_update([[1, 2]], mu=[[0.5, 0.5]], pi_beta=[[0.25, 0.75]], conservative_weight=0.3)
    assert q == pytest.approx(np.array([[0.4, 1.8]]), abs=1e-15)


def test_eq_1_minimised_numerically_is_eq_11():
    rng = np.random.default_rng(0)
    d, y = rng.dirichlet(np.full(6, 5.0)).reshape(2, 3), rng.normal(size=(2, 3))
    mu, alpha = rng.dirichlet(np.ones(3), 2), 0.4
    d_s = d.sum(axis=1, keepdims=True)

    def eq_1(q, subtract):
        q = q.reshape(2, 3)
        pushed = (d_s * mu * q).sum() - subtract * (d * q).sum()
        return alpha * pushed + 0.5 * (d * (q - y) ** 2).sum()

    for subtract in (False, True):
        found = minimize(eq_1, np.zeros(6), args=(subtract,), tol=1e-12).x.reshape(2, 3)
        assert cql_update(y, mu, d / d_s, alpha, subtract_behavior=subtract) == pytest.approx(found, abs=1e-5)


def test_cql_with_the_data_term_lowers_the_value_by_chi_square():
    rng = np.random.default_rng(1)
    pi, pi_beta, y = rng.dirichlet(np.ones(4), 5), rng.dirichlet(np.ones(4), 5), rng.normal(size=(5, 4))
    drop = (pi * (y - cql_update(y, pi, pi_beta, 0.7, subtract_behavior=True))).sum(axis=1)
    assert drop == pytest.approx(0.7 * ((pi - pi_beta) ** 2 / pi_beta).sum(axis=1), abs=1e-12)


def test_cql_support():
    assert cql_update([[1, 2]], [[1, 0]], [[1, 0]], 0.5, q=[[7, 9]]).tolist() == [[0.5, 9]]
    with pytest.raises(ValueError, match=r"state 0, action 1.*unbounded below"):
        cql_update([[1, 2]], [[0.5, 0.5]], [[1, 0]], 0.5)
    assert cql_update([[1, 2]], [[0.5, 0.5]], [[1, 0]], 0.0).tolist() == [[1, 2]]


def test_cql_h_by_hand():
    y = 1 + np.tanh(1)
    assert cql_h_update([[y, -y]], [[0.5, 0.5]], 1.0) == pytest.approx(np.array([[1, -1]]), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 20.0])
def test_cql_h_is_the_minimum_and_keeps_the_mean(alpha):
    rng = np.random.default_rng(0)
    b, y = rng.dirichlet(np.ones(4), 3), 5 * rng.normal(size=(3, 4))
    q = cql_h_update(y, b, alpha)
    assert (b * q).sum(axis=1) == pytest.approx((b * y).sum(axis=1), abs=1e-10)
    for s in range(3):

        def objective(x, s=s):
            return alpha * (logsumexp(x) - b[s] @ x) + 0.5 * b[s] @ (x - y[s]) ** 2

        found = minimize(objective, y[s], tol=1e-12).x
        assert q[s] == pytest.approx(found, abs=1e-3)
        assert objective(q[s]) <= objective(found) + 1e-12


def test_cql_h_on_hard_states():
    rng = np.random.default_rng(0)
    b, y = rng.dirichlet(np.full(20, 0.1), 1000) + 1e-6, 100 * rng.normal(size=(1000, 20))
    b /= b.sum(axis=1, keepdims=True)
    q = cql_h_update(y, b, 5.0)
    m = np.exp(q - logsumexp(q, axis=1, keepdims=True))
    assert np.abs(5 * (m - b) + b * (q - y)).max() < 1e-7
    with pytest.raises(ValueError, match="state 1, action 0"):
        cql_h_update([[1, 2], [1, 2]], [[0.5, 0.5], [0, 1]], 1.0)


def test_combo_by_hand():
    q = combo_update([[0, 0]], d=[[0.6, 0.4]], rho=[[0.2, 0.8]], real_ratio=0.5, conservative_weight=1.0)
    assert q == pytest.approx(np.array([[1, -2 / 3]]), abs=1e-15)  # -g/d_f
    assert -(np.array([0.2, 0.8]) * q).sum() == pytest.approx(1 / 3, abs=1e-15)  # f chi


def test_combo_minimises_eq_8():
    rng = np.random.default_rng(0)
    d, rho = rng.dirichlet(np.ones(6), 2).reshape(2, 2, 3)
    y, f, beta = rng.normal(size=(2, 3)), 0.3, 0.6
    d_f = f * d + (1 - f) * rho

    def eq_8(q):
        q = q.reshape(2, 3)
        return beta * ((rho - d) * q).sum() + 0.5 * (d_f * (q - y) ** 2).sum()

    found = minimize(eq_8, np.zeros(6), tol=1e-12).x.reshape(2, 3)
    assert combo_update(y, d, rho, f, beta) == pytest.approx(found, abs=1e-5)


def test_combo_facts():
    rng = np.random.default_rng(0)
    for _ in range(200):
        d, rho = rng.dirichlet(np.full(12, 0.5), 2).reshape(2, 4, 3)
        f = rng.uniform(0.05, 0.95)
        ratio = -combo_update(np.zeros((4, 3)), d, rho, f, 1.0)
        chi = ((rho - d) ** 2 / mixture(d, rho, f)).sum()
        assert (rho * ratio).sum() == pytest.approx(f * chi, abs=1e-12)
        assert (d * ratio).sum() == pytest.approx(-(1 - f) * chi, abs=1e-12)
        assert ratio.min() >= -1 / f - 1e-9
        assert ratio.max() <= 1 / (1 - f) + 1e-9


def test_combo_without_any_visit_keeps_the_old_value():
    q = combo_update([[1, 2]], [[1, 0]], [[1, 0]], 0.5, 0.3, q=[[8, 9]])
    assert q.tolist() == [[1, 9]]


@pytest.mark.parametrize(("f", "where"), [(1.0, "state 0, action 1"), (0.0, "state 0, action 0")])
def test_combo_refuses_the_unbounded_corner(f, where):
    with pytest.raises(ValueError, match=f"d_f is 0 .*{where}"):
        combo_update([[1, 2]], [[1, 0]], [[0, 1]], f, 0.3)


def test_bad_arguments_are_refused_by_name():
    y, half = [[1.0, 2.0]], [[0.5, 0.5]]
    with pytest.raises(ValueError, match=r"mu must sum to 1.*1\.1 at state 0"):
        cql_update(y, [[0.5, 0.6]], half, 0.1)
    with pytest.raises(ValueError, match=r"d is negative.*state 0, action 1"):
        combo_update(y, [[1.5, -0.5]], half, 0.5, 0.1)
    with pytest.raises(ValueError, match="rho must sum to 1"):
        combo_update(y, half, [[0.9, 0.9]], 0.5, 0.1)
    with pytest.raises(ValueError, match=r"real_ratio must be a finite number in \[0, 1\]"):
        combo_update(y, half, half, 1.5, 0.1)
    with pytest.raises(ValueError, match=r"d has shape \(1, 3\), expected \(1, 2\)"):
        combo_update(y, [[0.5, 0.25, 0.25]], half, 0.5, 0.1)
    with pytest.raises(ValueError, match="conservative_weight"):
        combo_update(y, half, half, 0.5, -1.0)
    with pytest.raises(ValueError, match="target is not finite at state 0, action 0"):
        combo_update([[np.inf, 0]], half, half, 0.5, 0.1)
