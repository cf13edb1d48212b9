"""Rows of the table of claims: the DROMO paper's assumptions and appendices, and the remarks on the replay critic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sb3_offline.tabular import appendix, bounds, counterexamples
from sb3_offline.tabular.main_rows import Row, vector
from sb3_offline.tabular.replay_critic import lyapunov


def rows(seeds: np.random.SeedSequence, n_mdps: int) -> Iterator[Row]:
    """Each draws from a generator of its own, so that none depends on another."""
    streams = map(np.random.default_rng, seeds.spawn(20))
    yield _assumption_21(next(streams), n_mdps)
    yield _assumption_c1()
    yield _cor_c3(next(streams), n_mdps)
    yield _weight_cap()
    yield _lemma_c4(next(streams), n_mdps)
    yield _simulation_lemma(next(streams), n_mdps)
    yield _theorem_a2(next(streams), n_mdps)
    yield _remark_a3()
    yield _replay_critic(next(streams), n_mdps)


def _assumption_21(rng: np.random.Generator, n: int) -> Row:
    rates = appendix.sampling_error(rng, 2 * n)
    return Row(
        "Assumption 2.1: sampling error falls as 1/sqrt(n(s,a))",
        "A statement about the data: holds (Hoeffding, Weissman, a union over pairs) for bounded rewards and independent rows "
        "at fixed n(s,a) > 0; says nothing where n(s,a) = 0, nor of continuous pairs, each of which is met once",
        "the same 50 rows counted 20 times",
        f"broken, at delta .05: independent rows {rates.independent:.1%}, copied rows {rates.copied:.1%}",
    )


def _assumption_c1() -> Row:
    case = appendix.variance_floor()
    return Row(
        "Assumption C.1: Var of Q under pi^f is at least 1/kappa for every Q",
        "Fails for every deterministic pi^f, and for every Q that is equal across a state's actions (Q = 0 at the start, "
        "collapsed DROMO)",
        f"pi^f = (1, 0): {case.deterministic:.4g}; Q = (3, 3): {case.constant:.4g}",
        "by arithmetic",
    )


def _cor_c3(rng: np.random.Generator, n: int) -> Row:
    case, rates = appendix.below_the_range(), appendix.value_threshold(rng, max(n // 4, 1), beta=3.0)
    return Row(
        "Cor C.3: beta >= c gives a lower bound",
        "Exact: iff beta >= E_rho[Delta - w Q]/nu, w = lambda/(sigma sqrt n), at the fixed point. The printed c is enough "
        "only while -Q <= R_max/(1 - gamma), which beta itself undoes; with sup_s of its bracket, kappa of the fixed point",
        f"2 states: c {case.printed_threshold:.4g}, beta {case.weight:.4g}, yet overestimated by {case.overestimate:.4g} "
        f"(least Q {case.lowest_q:.4g})",
        f"identity within {rates.identity:.0e}; beta = 3: c met {rates.met:.1%}, then broken {rates.broken} times",
    )


def _weight_cap() -> Row:
    case = appendix.weight_cap()
    return Row(
        "Cor C.3: alpha <= (1 - gamma) sqrt(Var n)/((A - 1) R_max)",
        "Drops Delta against the line above it: the two agree only for Delta = 1. Neither is needed: a negative threshold is "
        "met by every beta >= 0",
        f"Delta .1: printed {case.printed:.4g}, the line above {case.line_above:.4g}",
        "by arithmetic",
    )


def _lemma_c4(rng: np.random.Generator, n: int) -> Row:
    rates = appendix.lemma_c4(rng, 25 * n)
    return Row(
        "Lemma C.4: E_rho[lambda/sqrt(Var n)] against the overlap of rho and d",
        "Its bracket depends on s, outside of any mean over s. Holds with the root mean square over s, so with sup_s. With a "
        "rho-average it is false, though never at random; with the least it fails. Elsewhere: sup and average 0 of 5000, "
        "least 313",
        f"rho-average: the left side is {appendix.lemma_c4_average():.3g} times the bound",
        f"largest ratio to the bound: root mean square {rates.root_mean_square:.2f}, sup {rates.supremum:.2f}; broken: "
        f"rho-average {rates.rho_average_broken:.1%}, least {rates.minimum_broken:.1%}",
    )


def _simulation_lemma(rng: np.random.Generator, n: int) -> Row:
    return Row(
        "Simulation lemma: returns differ by at most the model's error",
        "Holds with a sup over s. Elsewhere: 0 of 2000 violated",
        "none",
        f"broken {bounds.simulation_lemma(rng, 10 * n):.1%} of {10 * n}",
    )


def _theorem_a2(rng: np.random.Generator, n: int) -> Row:
    case = counterexamples.calibration()
    printed, corrected = bounds.calibration_bound(rng, 20 * n)
    return Row(
        "Theorem A.2: calibration bounds the return's error",
        "Wrong by 1/(1 - gamma). Elsewhere: 7.1% against 0 of 20000",
        f"J {case.true_return:.3f}, J^ {case.model_return:.3f}: printed {case.printed_bound:.3g}, corrected "
        f"{case.corrected_bound:.3g}",
        f"printed bound broken {printed:.1%}, corrected {corrected:.1%}",
    )


def _remark_a3() -> Row:
    case = appendix.pointwise_calibration()
    return Row(
        "Remark A.3: perfectly calibrated, so pointwise equal values",
        "False: calibration is about forecasts, not states. Only the return under the stationary distribution agrees",
        f"calibration error {case.calibration_error:.4g}: V {vector(case.true_values)}, V^ {vector(case.model_values)}",
        "by arithmetic",
    )


def _replay_critic(rng: np.random.Generator, n: int) -> Row:
    rates = lyapunov(rng, n)
    return Row(
        "Replay critic: V+ - V <= -c V + O(lambda |w~|) + O(lambda |w~|^3)",
        "Near w*, less a constant of the order lambda^2 that a pivot adds, and with d at w: the data vector's dependence on w "
        "moves E with w, so that c > 0 is no property of the data. lambda < 8/M is enough, 2/lam_max the edge",
        f"V+ - V at w* with a pivot: {rates.at_best:.1e} or more, where the right side is 0",
        f"linear part above -c V {rates.bound_broken:.1%}; the rest falls by {rates.cubic:.2f} as |w~| halves, with a pivot "
        f"by {rates.linear:.2f}; .99 and 1.01 x 2/lam_max: (V+ - V)/V {rates.below:.3f}, {rates.above:.3f}; V grows along "
        f"{rates.grows[1]:.0%} of directions at |w~| = |w*|; lam_min(E) halved {rates.excitation_lost:.0%} at .1 |w*|",
    )
