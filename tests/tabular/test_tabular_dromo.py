"""DROMO's updates: values by hand, invariants, and an independent minimiser of Eq 13 and Eq 17."""

import time

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from sb3_offline.tabular import (
    chi2_worst_case,
    combo_update,
    cvar_update,
    cvar_worst_case,
    dromo_objective,
    dromo_update,
    lemma_factor,
    mixture,
    shrink_spread,
    strict_dromo_update,
)


def one_state(z, d, p, kappa):
    return shrink_spread(*(np.array([x], dtype=float) for x in (z, d, p)), np.array([kappa], dtype=float))[0]


def descend(objective, start):
    """The minimum by BFGS with complex-step derivatives: exact to rounding, and knowing nothing of the closed forms."""

    def gradient(x):
        return np.array([objective(x + 1e-20j * e).imag for e in np.eye(len(x))]) / 1e-20

    for _ in range(5):  # restarts, for the kink where the std vanishes
        start = minimize(lambda x: objective(x).real, start, jac=gradient, options={"gtol": 1e-12}).x
    return objective(start).real


def random_case(rng, n_states=6, n_actions=4):
    d, rho = rng.dirichlet(np.ones(n_states * n_actions), 2).reshape(2, n_states, n_actions)
    f = rng.uniform(0.1, 0.9)
    pi_f = mixture(d / d.sum(1, keepdims=True), rng.dirichlet(np.ones(n_actions), n_states), f)
    return rng.normal(size=d.shape), d, rho, rng.integers(1, 30, n_states), pi_f, f


def test_one_state_by_hand():
    assert one_state([3, 0], [0.3, 0.2], [0.5, 0.5], 0.1) == pytest.approx([17 / 6, 1 / 4], abs=1e-12)
    for kappa in (0.72, 0.8, np.inf):  # kappa_max = .72
        assert one_state([3, 0], [0.3, 0.2], [0.5, 0.5], kappa) == pytest.approx([1.8, 1.8], abs=1e-12)
    q = one_state([3, 0], [0.3, 0.2], [0.5, 0.5], 0.7199)
    assert q[0] > q[1]
    # The same through the public signature: kappa = alpha d_f(s)/sqrt(n) = .1.
    q = dromo_update([[3, 0]], [[0.3, 0.2]], [[0.3, 0.2]], [4], [[0.5, 0.5]], 0.5, 0.0, 0.4)
    assert q == pytest.approx(np.array([[17 / 6, 1 / 4]]), abs=1e-12)


def test_proportional_closed_form_by_hand():
    p = np.array([[0.2, 0.3, 0.5]])
    q = dromo_update([[1, 2, 4]], 0.7 * p, 0.7 * p, [4], p, 0.5, 0.0, 0.6)
    assert q == pytest.approx(np.array([[1.432346, 2.192154, 3.711769]]), abs=1e-6)
    value, sigma = 2.8, np.sqrt(1.56)
    assert 1 - 0.6 / (2 * sigma) == pytest.approx(0.7598077, abs=1e-7)
    assert q == pytest.approx(value + (1 - 0.3 / sigma) * (np.array([[1, 2, 4]]) - value), abs=1e-14)


def test_closed_form_where_d_is_proportional_to_p():
    rng = np.random.default_rng(0)
    z, p, n, alpha = rng.normal(size=(200, 5)), rng.dirichlet(np.ones(5), 200), rng.integers(1, 20, 200), 0.8
    d = p * rng.dirichlet(np.ones(200))[:, None]
    value = (p * z).sum(1, keepdims=True)
    sigma = np.sqrt((p * (z - value) ** 2).sum(1))
    factor = np.maximum(1 - alpha / (np.sqrt(n) * sigma), 0)[:, None]
    assert (factor == 0).any()
    assert (factor > 0).any()
    q = dromo_update(z, d, d, n, p, 0.5, 0.0, alpha)
    assert q == pytest.approx(value + factor * (z - value), abs=1e-12)
    # Lemma 4.1's shape is right with lambda = alpha and centring: q - V = [1 - alpha/(alpha + sqrt(n) sigma_q)](z - V).
    sigma_q = np.sqrt((p * (q - value) ** 2).sum(1, keepdims=True))
    lemma = 1 - alpha / (alpha + np.sqrt(n)[:, None] * sigma_q)
    assert q - value == pytest.approx(lemma * (z - value), abs=1e-12)


def test_exact_update_minimises_eq_13():
    rng = np.random.default_rng(0)
    for _ in range(10):
        y, d, rho, n, pi_f, f = random_case(rng)
        alpha, beta = rng.uniform(0, 1.5), 0.4
        q = dromo_update(y, d, rho, n, pi_f, f, beta, alpha)
        d_f, z = mixture(d, rho, f), combo_update(y, d, rho, f, beta)
        kappa = alpha * d_f.sum(1) / np.sqrt(n)

        # Eq 13 itself, not through z: beta (rho - d).Q + 1/2 sum d_f (Q - y)^2 + alpha sum_s d_f(s) std/sqrt(n).
        def eq_13(x, y=y, d=d, rho=rho, d_f=d_f, pi_f=pi_f, kappa=kappa):
            x = x.reshape(y.shape)
            mean = (pi_f * x).sum(1, keepdims=True)
            std = np.sqrt((pi_f * (x - mean) ** 2).sum(1) + 1e-18)
            return 0.4 * ((rho - d) * x).sum() + 0.5 * (d_f * (x - y) ** 2).sum() + (kappa * std).sum()

        found = descend(eq_13, y.ravel())
        assert eq_13(q.ravel()) <= found + 1e-9
        assert eq_13(q.ravel()) == pytest.approx(found, abs=1e-6)
        # Convex, so no small step may go down either; this also settles collapsed states, where L-BFGS stalls.
        for _ in range(200):
            step = rng.normal(size=y.shape) * 10 ** rng.uniform(-5, 0)
            assert (dromo_objective(q + step, z, d_f, pi_f, kappa) >= dromo_objective(q, z, d_f, pi_f, kappa) - 1e-13).all()


def test_stationarity_to_rounding():
    rng = np.random.default_rng(5)
    y, d, rho, n, pi_f, f = random_case(rng, 500, 5)
    q = dromo_update(y, d, rho, n, pi_f, f, 0.3, 0.5)
    d_f, z = mixture(d, rho, f), combo_update(y, d, rho, f, 0.3)
    value = (pi_f * q).sum(1, keepdims=True)
    sigma = np.sqrt((pi_f * (q - value) ** 2).sum(1, keepdims=True))
    kappa = 0.5 * d_f.sum(1, keepdims=True) / np.sqrt(n)[:, None]
    free = sigma[:, 0] > 1e-6
    assert 50 < free.sum() <= 500
    gradient = (d_f * (q - z) + kappa * pi_f * (q - value) / np.maximum(sigma, 1e-300))[free]
    assert np.abs(gradient / d_f.sum(1, keepdims=True)[free]).max() < 1e-9


def test_invariants():
    rng = np.random.default_rng(1)
    for _ in range(50):
        y, d, rho, n, pi_f, f = random_case(rng)
        args, alpha = (d, rho, n, pi_f, f, 0.4), rng.uniform(0, 2)
        q, z, d_f = dromo_update(y, *args, alpha), combo_update(y, d, rho, f, 0.4), mixture(d, rho, f)
        assert (d_f * q).sum(1) == pytest.approx((d_f * z).sum(1), abs=1e-13)  # the d_f-mean never falls
        assert dromo_update(y + 7, *args, alpha) == pytest.approx(q + 7, abs=1e-12)
        assert dromo_update(y, *args, 0.0) == pytest.approx(z, abs=0)  # alpha = 0 is COMBO, bit for bit
        assert dromo_update(3 * y, d, rho, n, pi_f, f, 1.2, 3 * alpha) == pytest.approx(3 * q, abs=1e-11)
        inside = (q >= z.min(1, keepdims=True) - 1e-12) & (q <= z.max(1, keepdims=True) + 1e-12)
        assert inside.all()
        spread = [np.sqrt((pi_f * (x - (pi_f * x).sum(1, keepdims=True)) ** 2).sum(1)) for x in (q, z)]
        assert (spread[0] <= spread[1] + 1e-12).all()
        # 1-Lipschitz in the D-norm, state by state.
        other = y + rng.normal(size=y.shape)
        moved = (d_f * (dromo_update(other, *args, alpha) - q) ** 2).sum(1)
        assert (moved <= (d_f * (other - y) ** 2).sum(1) + 1e-13).all()


def test_not_a_sup_norm_contraction():
    z, d, p, kappa, step = np.array([1.0, 0.0, -1.0]), [0.05, 0.85, 0.1], [0.1, 0.4, 0.5], 0.2, 1e-6
    jacobian = np.column_stack(
        [(one_state(z + step * e, d, p, kappa) - one_state(z - step * e, d, p, kappa)) / (2 * step) for e in np.eye(3)]
    )
    assert np.abs(jacobian).sum(axis=1).max() == pytest.approx(1.9958, abs=1e-3)


def test_actions_outside_the_policy_and_outside_the_data():
    q = one_state([3, 0, 5], [0.3, 0.2, 0.1], [0.5, 0.5, 0.0], 0.1)
    assert q == pytest.approx([17 / 6, 1 / 4, 5], abs=1e-12)  # p = 0: q = z, and it takes no part
    q = one_state([3, 0, 5], [0.3, 0.2, 0.1], [0.5, 0.5, 0.0], 9.0)
    assert q == pytest.approx([1.8, 1.8, 5], abs=1e-12)
    q = one_state([3, 0, 5], [0.3, 0.2, 0.0], [0.4, 0.4, 0.2], 0.05)  # D = 0 < p: only the std sees it, so q = V
    assert q[2] == pytest.approx(0.4 * q[0] + 0.4 * q[1] + 0.2 * q[2], abs=1e-12)
    # d_f = g = 0 and pi^f = 0, or a state that nobody visits: the old value stays.
    q = dromo_update([[3, 0, 5]], [[0.3, 0.2, 0]], [[0.3, 0.2, 0]], [4], [[0.5, 0.5, 0]], 0.5, 0.0, 0.4, q=[[1, 2, 8]])
    assert q == pytest.approx(np.array([[17 / 6, 1 / 4, 8]]), abs=1e-12)
    nobody = np.array([[0.5, 0.5], [0, 0]])
    q = dromo_update(np.ones((2, 2)), nobody, nobody, [3, 0], np.full((2, 2), 0.5), 0.5, 0.1, 1.0, q=[[0, 0], [4, 6]])
    assert q.tolist() == [[1, 1], [4, 6]]


def test_unvisited_state_reached_by_the_model_loses_all_spread():
    d, rho = np.array([[0.5, 0.5], [0, 0]]), np.array([[0.25, 0.25], [0.3, 0.2]])
    q = dromo_update([[3, 0], [3, 0]], d, rho, [4, 0], np.full((2, 2), 0.5), 0.5, 0.0, 0.1)
    assert q[1] == pytest.approx([1.8, 1.8])
    assert q[0, 0] > q[0, 1]


def test_lemma_as_printed():
    p, q, n, alpha = np.array([[0.8, 0.2]]), np.array([[1.0, 3.0]]), [9.0], 0.5
    sigma = 0.8  # sqrt(.8 * .4^2 + .2 * 1.6^2) = .8
    c = 1 - np.array([[0.1, 0.4]]) / (np.array([[0.1, 0.4]]) + 3 * sigma)
    z = np.array([[2.0, -1.0]])
    assert dromo_update(z, p, p, n, p, 0.5, 0.0, alpha, mode="paper", q=q) == pytest.approx(c * z, abs=1e-14)
    # sigma = 0: c = 0; and 1, not 0/0, where lambda = 0.
    assert lemma_factor(q, np.array([[1.0, 0.0]]), np.array(n), alpha).tolist() == [[1, 0]]
    assert lemma_factor(np.ones((1, 2)), p, np.array(n), alpha).tolist() == [[0, 0]]
    assert lemma_factor(np.ones((1, 2)), p, np.array(n), 0.0).tolist() == [[1, 1]]


def test_strict_update_minimises_eq_17():
    rng = np.random.default_rng(2)
    for alpha in (0.0, 0.5, 50.0):
        y, d, rho, _, _, f = random_case(rng)
        q, d_f = strict_dromo_update(y, d, rho, 9, f, 0.3, alpha), mixture(d, rho, f)
        z = combo_update(y, d, rho, f, 0.3)
        mean = (d_f * z).sum()
        sigma = np.sqrt((d_f * (z - mean) ** 2).sum())
        assert q == pytest.approx(mean + max(1 - alpha / (3 * sigma), 0) * (z - mean), abs=1e-14)

        def eq_17(x, y=y, d=d, rho=rho, d_f=d_f, alpha=alpha):
            x = x.reshape(y.shape)
            std = np.sqrt((d_f * (x - (d_f * x).sum()) ** 2).sum() + 1e-18)
            return 0.3 * ((rho - d) * x).sum() + 0.5 * (d_f * (x - y) ** 2).sum() + alpha / 3 * std

        found = descend(eq_17, y.ravel())
        assert eq_17(q.ravel()) <= found + 1e-9
        assert eq_17(q.ravel()) == pytest.approx(found, abs=1e-6)


def test_std_is_the_chi_square_ball_while_unclipped():
    z, p = np.array([0.0, 1.0, 2.0]), np.full(3, 1 / 3)
    assert chi2_worst_case([0, 0, 3], p, 0.5) == pytest.approx(2, abs=1e-12)
    assert chi2_worst_case([0, 0, 3], p, 2) == 3
    assert chi2_worst_case(z, p, 1) == pytest.approx(3 / 2 + np.sqrt(3) / 6, abs=1e-12)
    assert p @ z + np.sqrt(p @ (z - 1) ** 2) == pytest.approx(1.816497, abs=1e-6)
    assert chi2_worst_case([0, 1, 10], p, 1) == pytest.approx(8.163579, abs=1e-6)
    assert chi2_worst_case(z, p, 0) == 1
    rng = np.random.default_rng(0)
    for _ in range(50):  # the dual: inf_eta eta + sqrt(1 + r) sqrt(E[(Z - eta)_+^2])
        z, p, r = rng.normal(size=5), rng.dirichlet(np.ones(5)), rng.uniform(0.01, 3)
        grid = np.linspace(z.min() - 30, z.max(), 400_001)
        part = np.maximum(z[:, None] - grid, 0)
        dual = (grid + np.sqrt(1 + r) * np.sqrt(p @ part**2)).min()
        assert chi2_worst_case(z, p, r) == pytest.approx(dual, abs=1e-4)
        assert chi2_worst_case(z, p, r) <= dual + 1e-9


def test_cvar_is_the_mean_over_the_largest_share():
    """Uniform on (0, 1, 10), share 1/2: a third at 10 and a sixth at 1, so (10/3 + 1/6)/(1/2) = 7."""
    z, p = [0.0, 10.0, 1.0], np.full(3, 1 / 3)
    assert cvar_worst_case(z, p, 0.5) == pytest.approx(7, abs=1e-12)
    assert cvar_worst_case(z, p, 1.0) == pytest.approx(11 / 3, abs=1e-12)
    assert cvar_worst_case(z, p, 1 / 3) == pytest.approx(10, abs=1e-12)
    assert cvar_worst_case(z, p, 0.01) == pytest.approx(10, abs=1e-12)
    assert cvar_worst_case([5.0, 7.0], [1.0, 0.0], 0.3) == pytest.approx(5, abs=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(20):  # the linear programme itself: max q.z over 0 <= q <= p/share, sum q = 1
        z, p, share = rng.normal(size=5), rng.dirichlet(np.ones(5)), rng.uniform(0.05, 1)
        best = linprog(-z, A_eq=np.ones((1, 5)), b_eq=[1], bounds=[(0, bound) for bound in p / share])
        assert cvar_worst_case(z, p, share) == pytest.approx(-best.fun, abs=1e-9)
    with pytest.raises(ValueError, match="share must be positive"):
        cvar_worst_case([0.0, 1.0], [0.5, 0.5], 0.0)
    with pytest.raises(ValueError, match=r"share must be a finite number in \[0, 1\], got 1.5"):
        cvar_worst_case([0.0, 1.0], [0.5, 0.5], 1.5)


def test_cvar_update_by_hand():
    """z = (0, 2), D = p = (1/2, 1/2), share 1/2: w = (0, 1) until the two meet, so q = z + kappa (1, -1); then the D-mean."""
    half = np.array([[0.5, 0.5]])
    for beta, expected in ((0.1, [0.1, 1.9]), (0.9, [0.9, 1.1]), (1.0, [1.0, 1.0]), (5.0, [1.0, 1.0])):
        q = cvar_update([[0.0, 2.0]], half, half, half, 0.5, beta, 0.5)
        np.testing.assert_allclose(q, [expected], atol=1e-12)
    assert cvar_worst_case([0.0, 1.0], [0.75, 0.25], 0.25) - 0.25 == pytest.approx(np.sqrt(3) * np.sqrt(3) / 4, abs=1e-12)


def test_cvar_update_is_optimal_and_keeps_what_it_should():
    """w = D (z - q)/kappa + p must be a maximiser of w.q over w <= p/share: what optimality of a convex objective means."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        d, rho = rng.dirichlet(np.ones(12), 2).reshape(2, 3, 4)
        d[0, 0] = rho[0, 0] = 0  # nothing holds this entry
        f, beta, share = rng.uniform(0.1, 0.9), rng.uniform(0.01, 1), rng.uniform(0.05, 1)
        y, pi_f = rng.normal(size=(3, 4)), rng.dirichlet(np.ones(4), 3)
        pi_f[1] = [0.0, 0.2, 0.3, 0.5]
        z, d_f = combo_update(y, d, rho, f, beta), mixture(d, rho, f)
        q = cvar_update(y, d, rho, pi_f, f, beta, share)
        for s in range(3):
            w = d_f[s] * (z[s] - q[s]) / (beta * d_f[s].sum()) + pi_f[s]
            assert w.sum() == pytest.approx(1, abs=1e-10)
            assert w.min() > -1e-10
            assert (w - pi_f[s] / share).max() < 1e-10
            assert w @ q[s] == pytest.approx(cvar_worst_case(q[s], pi_f[s], share), abs=1e-10)
        np.testing.assert_allclose(cvar_update(y + 3, d, rho, pi_f, f, beta, share), q + 3, atol=1e-10)
        np.testing.assert_allclose(cvar_update(y, d, rho, pi_f, f, beta, 1.0)[1:], z[1:], atol=1e-10)  # COMBO
    with pytest.raises(ValueError, match="share must be positive"):
        cvar_update(y, d, rho, pi_f, f, beta, 0.0)


def test_bad_arguments_are_refused_by_name():
    y, half = [[1.0, 2.0]], [[0.5, 0.5]]
    with pytest.raises(ValueError, match=r"counts is negative \(-3\) at state 0"):
        dromo_update(y, half, half, [-3], half, 0.5, 0.1, 0.1)
    with pytest.raises(ValueError, match="pi_f must sum to 1"):
        dromo_update(y, half, half, [3], [[0.5, 0.6]], 0.5, 0.1, 0.1)
    with pytest.raises(ValueError, match="mode"):
        dromo_update(y, half, half, [3], half, 0.5, 0.1, 0.1, mode="Exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"d_f is 0 .* state 0, action 1"):
        dromo_update(y, [[1, 0]], half, [3], half, 1.0, 0.1, 0.1)
    with pytest.raises(ValueError, match="n must be"):
        strict_dromo_update(y, half, half, 0, 0.5, 0.1, 0.1)
    with pytest.raises(ValueError, match="d must sum to 1"):
        strict_dromo_update(y, [[0.3, 0.3]], half, 4, 0.5, 0.1, 0.1)
    with pytest.raises(ValueError, match="robust_weight"):
        dromo_update(y, half, half, [3], half, 0.5, 0.1, float("nan"))


def test_ten_thousand_states_in_under_a_second():
    rng = np.random.default_rng(0)
    d, rho = rng.dirichlet(np.ones(200_000), 2).reshape(2, 10_000, 20)
    pi_f, y, n = rng.dirichlet(np.ones(20), 10_000), rng.normal(size=(10_000, 20)), rng.integers(1, 9, 10_000)
    start = time.process_time()
    dromo_update(y, d, rho, n, pi_f, 0.5, 0.3, 0.5)
    assert time.process_time() - start < 1
