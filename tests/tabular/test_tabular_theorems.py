"""What holds of the DROMO paper, to 1e-10 on 200 random MDPs, and the counterexamples to what does not."""

import numpy as np
import pytest

from sb3_offline.tabular import bounds, claims, counterexamples
from sb3_offline.tabular.theorems import main_theorems

N_MDPS = 200


def rng():
    return np.random.default_rng(0)


def test_cor_43_identity():
    measured = claims.value_gap(rng(), N_MDPS, beta=0.03)
    assert measured.identity < 1e-10
    assert measured.converged == 1


def test_cor_43_with_matched_conditionals():
    measured = claims.matched_value_gap(rng(), N_MDPS, beta=0.1)
    assert measured.identity < 1e-10
    assert 0 < measured.sufficient < 1
    assert measured.broken == 0


def test_thm_42_resolvent_with_c_inside():
    for reward_range, broken in (((0.0, 1.0), 0.0), ((-1.0, 0.0), 0.5)):
        measured = claims.lemma_bound(rng(), N_MDPS, reward_range, beta=0.0)
        assert measured.resolvent < 1e-10
        assert measured.settled > 0.8
        # For r >= 0 the bound follows from C <= I; for r <= 0 it turns round.
        assert (measured.entries_violated == 0) == (broken == 0)
        assert measured.overestimates == (0 if broken == 0 else 1)


def test_thm_44_one_step():
    measured = claims.data_gap(rng(), N_MDPS)
    assert measured.identity < 1e-10
    assert measured.threshold_wrong == 0
    assert measured.chain_narrows > 0


def test_inequalities():
    worst_case = bounds.worst_case_bound(rng(), 500)
    assert worst_case.corrected == worst_case.equality_wrong == 0 < worst_case.printed
    share = bounds.share_cost(rng(), 1000)
    assert share.broken == 0
    assert 0.98 < share.largest <= 1 + 1e-9
    assert bounds.spread_residual(rng(), 2000) < 1e-10
    assert bounds.simulation_lemma(rng(), 500) == 0
    printed, corrected = bounds.calibration_bound(rng(), 2000)
    assert corrected == 0 < printed
    linear = bounds.linear_lower_bound(rng(), N_MDPS)
    assert linear.threshold_wrong == 0 < linear.variance_negative < 1
    assert bounds.sup_norm_lipschitz(rng(), 5000, 3) > 1 / claims.GAMMA


def test_sup_norm_jacobian_against_finite_differences(monkeypatch):
    # The constant is reached: moving z along the signs of the worst row moves q by that much.
    seen = {}
    original = bounds.shrink_spread

    def spy(*args):
        seen["args"] = args
        return original(*args)

    monkeypatch.setattr(bounds, "shrink_spread", spy)
    constant = bounds.sup_norm_lipschitz(rng(), 300, 3)
    z, weight, p, kappa = seen["args"]
    step, reached = 1e-6, 0.0
    for signs in np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T:
        difference = original(z + step * signs, weight, p, kappa) - original(z - step * signs, weight, p, kappa)
        reached = max(reached, np.abs(difference).max() / (2 * step))
    assert reached == pytest.approx(constant, rel=1e-3)


def test_counterexamples():
    assert counterexamples.worst_case() == pytest.approx((0.11, 0.15), abs=1e-12)
    gradient = counterexamples.std_gradient()
    assert gradient.exact.tolist() == [-0.5, 0.5]
    assert gradient.printed.tolist() == [0.25, 0.75]
    finite_difference = [
        (np.std([1 + 1e-6 * a, 3 + 1e-6 * b]) - np.std([1 - 1e-6 * a, 3 - 1e-6 * b])) / 2e-6 for a, b in ((1, 0), (0, 1))
    ]
    assert finite_difference == pytest.approx(gradient.exact, abs=1e-9)
    joint, product = counterexamples.conditional()
    assert joint == pytest.approx([0.4, 0.1])
    assert product == pytest.approx([0.25, 0.25])
    assert counterexamples.gap_at_fixed_point() == pytest.approx(-24.8, abs=1e-9)
    assert counterexamples.gap_at_fixed_point(0.5) == pytest.approx(-12.4, abs=1e-9)
    assert counterexamples.constant_q_spreads() == pytest.approx([5 / 6, 5 / 9], abs=1e-12)
    assert counterexamples.combo_range() == pytest.approx((-12, 10, 12), abs=1e-9)
    assert counterexamples.negative_star() < -0.4
    assert counterexamples.fqi_divergence(0.9) == pytest.approx((1.08, -0.2), abs=1e-12)
    lagged, exact = counterexamples.lagged_objective()
    assert lagged > exact + 0.01
    assert counterexamples.calibration() == pytest.approx((0, 90 / 19, 0.1, 0.9, 9), abs=1e-12)


def test_lemma_41_in_numbers():
    case = counterexamples.lemma_41()
    assert case.true_q == pytest.approx([-3, -5], abs=1e-12)
    assert case.lemma_q == pytest.approx([-1.65, -3.15], abs=1e-10)
    assert case.factor == pytest.approx(0.75, abs=1e-10)
    assert case.printed_bound == pytest.approx(-2.25, abs=1e-10)
    assert case.exact_q == pytest.approx([-3.5, -4.5], abs=1e-10)
    assert (case.lemma_moves, case.exact_moves) == pytest.approx((12, 20), abs=1e-9)
    assert case.objective_exact == pytest.approx(0.375, abs=1e-12)
    assert case.objective_nothing == pytest.approx(0.5, abs=1e-12)
    assert case.objective_lemma == pytest.approx(0.90625, abs=1e-10)
    stuck = counterexamples.lemma_from_zero()
    assert stuck.converged
    assert not stuck.q.any()


def test_command_is_reproducible(capsys):
    outputs = []
    for seed in ("3", "3", "4"):
        assert main_theorems(["--n-mdps", "5", "--seed", seed]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert max(map(len, outputs[0].splitlines())) == 100  # where there is no terminal to fit to
    assert outputs[0].replace("seed 3", "seed 4") != outputs[2]
    claims_in_order = [
        "Thm 3.1",
        "Lemma 4.1",
        "Thm 4.2",
        "Cor 4.3",
        "Thm 4.4",
        "-24.8",
        "Remark 6.1",
        "Thm 4.5",
        "Thm 4.6",
        "Section 6",
    ]
    claims_in_order += ["Assumption 2.1", "Assumption C.1", "Cor C.3", "Lemma C.4", "Simulation", "Theorem A.2", "Remark A.3"]
    places = [outputs[0].index(claim) for claim in [*claims_in_order, "Replay critic"]]
    assert places == sorted(places)
