"""Worst cases over a chi-square ball: by hand, against the tabular oracle, and by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from sb3_offline.dromo.robustness import (
    chi2_worst_weights,
    cvar_worst_weights,
    drawn_states,
    stratified_variance,
    stratified_weights,
)
from sb3_offline.tabular.ambiguity import chi2_worst_case, cvar_worst_case


def worst_case(values: list[float], radius: float, p: list[float] | None = None) -> float:
    z = th.tensor(values)
    base = th.full((len(z),), 1 / len(z)) if p is None else th.tensor(p)
    return float((chi2_worst_weights(z, base, th.tensor(radius)) * z).sum())


@pytest.mark.parametrize(
    ("values", "radius", "expected"),
    [
        ([0.0, 0.0, 3.0], 0.5, 2.0),
        ([0.0, 0.0, 3.0], 2.0, 3.0),  # from r = 1/P(max) - 1 on
        ([0.0, 0.0, 3.0], 50.0, 3.0),
        ([0.0, 1.0, 2.0], 1.0, 1.5 + 3**0.5 / 6),  # clipped; the std surrogate says 1.816497
        ([0.0, 1.0, 10.0], 1.0, 8.163579),  # unclipped: E + sqrt(r) sigma
        ([0.0, 1.0, 10.0], 0.0, 11 / 3),
        ([4.0, 4.0, 4.0], 1.0, 4.0),
    ],
)
def test_worst_case_by_hand(values: list[float], radius: float, expected: float) -> None:
    assert worst_case(values, radius) == pytest.approx(expected, abs=1e-5)


def test_the_radius_is_twice_that_of_duchi_and_namkoong() -> None:
    """phi = (t - 1)^2 / 2: the q at r = 1 has sum p phi(q/p) = 1/2."""
    p = th.full((3,), 1 / 3)
    q = chi2_worst_weights(th.tensor([0.0, 1.0, 2.0]), p, th.tensor(1.0))
    assert float((p * 0.5 * (q / p - 1).square()).sum()) == pytest.approx(0.5, abs=1e-5)
    assert float(q.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(q.min()) == 0


@pytest.mark.parametrize("seed", range(4))
def test_batched_against_the_oracle(seed: int) -> None:
    """(critics, states, samples) with one radius a state, small and large, and uneven base weights; Q about -1000."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 6, 7)) * 10 - 1000
    values[0, 0, :4] = values[0, 0].max()  # ties at the top
    p = rng.dirichlet(np.ones(7))
    radii = np.array([0.0, 1e-4, 0.1, 1.0, 5.0, 100.0])
    q = chi2_worst_weights(th.tensor(values), th.tensor(p), th.tensor(radii)).numpy()
    for i, s in np.ndindex(2, 6):
        assert q[i, s] @ values[i, s] == pytest.approx(chi2_worst_case(values[i, s], p, radii[s]), abs=1e-6)
        assert ((q[i, s] - p) ** 2 / p).sum() <= radii[s] + 1e-6
    single = chi2_worst_weights(th.tensor(values, dtype=th.float32), th.tensor(p, dtype=th.float32), th.tensor(radii))
    np.testing.assert_allclose((single.double().numpy() * values).sum(-1), (q * values).sum(-1), atol=5e-3)


def test_worst_share_by_hand() -> None:
    """Uniform on (0, 10, 1): half of the mass is a third at 10 and a sixth at 1, so q = (0, 2/3, 1/3) and the mean 7."""
    z, p = th.tensor([0.0, 10.0, 1.0]), th.full((3,), 1 / 3)
    th.testing.assert_close(cvar_worst_weights(z, p, 0.5), th.tensor([0.0, 2 / 3, 1 / 3]))
    th.testing.assert_close(cvar_worst_weights(z, p, 0.2), th.tensor([0.0, 1.0, 0.0]))
    th.testing.assert_close(cvar_worst_weights(z, p, 1.0), p)
    uneven = th.tensor([0.5, 0.1, 0.4])  # .1 at 10, and .2 of the .4 at 1
    th.testing.assert_close(cvar_worst_weights(z, uneven, 0.3), th.tensor([0.0, 1 / 3, 2 / 3]))


@pytest.mark.parametrize("share", [0.03, 0.3, 0.8, 1.0])
def test_batched_share_against_the_oracle(share: float) -> None:
    """(critics, states, samples) with uneven base weights and ties; Q about -1000, in float32 too."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 6, 7)) * 10 - 1000
    values[0, 0, :4] = values[0, 0].max()
    values[1, 1] = values[1, 1, 0]
    p = rng.dirichlet(np.ones(7))
    q = cvar_worst_weights(th.tensor(values), th.tensor(p), share).numpy()
    for i, s in np.ndindex(2, 6):
        assert q[i, s] @ values[i, s] == pytest.approx(cvar_worst_case(values[i, s], p, share), abs=1e-9)
        assert (q[i, s] <= p / share + 1e-12).all()
    single = cvar_worst_weights(th.tensor(values, dtype=th.float32), th.tensor(p, dtype=th.float32), share)
    np.testing.assert_allclose(single.sum(-1), np.ones((2, 6)), atol=1e-6)
    np.testing.assert_allclose((single.double().numpy() * values).sum(-1), (q * values).sum(-1), atol=5e-3)


def test_gradient_of_the_sup_is_its_weights() -> None:
    """d sup / d z_i = q_i, by central differences, clipped and unclipped."""
    p = np.array([0.2, 0.3, 0.1, 0.4])
    z = np.array([0.3, -1.0, 2.0, 0.9])
    for radius in (0.05, 1.5):
        q = chi2_worst_weights(th.tensor(z), th.tensor(p), th.tensor(radius)).numpy()
        for i in range(4):
            step = 1e-5 * np.eye(4)[i]
            difference = (chi2_worst_case(z + step, p, radius) - chi2_worst_case(z - step, p, radius)) / 2e-5
            assert q[i] == pytest.approx(difference, abs=1e-4)


def test_strata_weigh_f_and_1_minus_f() -> None:
    weights = stratified_weights(th.zeros(5, 2), th.zeros(5, 3), 0.8)
    th.testing.assert_close(weights, th.tensor([0.4, 0.4, 0.2 / 3, 0.2 / 3, 0.2 / 3]))


def test_equal_values_keep_their_weights_whatever_rounding_does() -> None:
    p = th.tensor([0.06] * 5 + [0.14] * 5)
    q = chi2_worst_weights(th.ones(10), p, 1e-8)
    th.testing.assert_close(q, p)


def test_the_term_at_drawn_states_has_the_mean_and_the_variance_of_sampling_without_replacement() -> None:
    """Eq 13 at 16 of 64 states: the mean of 4000 draws within four standard errors, which are known, of the term at all 64."""
    generator = th.Generator().manual_seed(0)
    q_behavior, q_policy = (scale * th.randn(64, 10, generator=generator) for scale in (1.0, 3.0))
    n = th.rand(64, generator=generator) * 5 + 0.1
    term = ((stratified_variance(q_behavior, q_policy, 0.3)) / n).sqrt()
    drawn = th.stack([term[drawn_states(64, 16, generator)].mean() for _ in range(4000)])
    variance = (1 / 16 - 1 / 64) * float(term.var())
    assert float(drawn.mean()) == pytest.approx(float(term.mean()), abs=4 * (variance / 4000) ** 0.5)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.1)


def test_drawn_states_are_distinct_rows_of_the_batch() -> None:
    generator = th.Generator().manual_seed(0)
    rows = drawn_states(256, 64, generator)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 64
    assert rows.min() >= 0
    assert rows.max() < 256
    assert drawn_states(5, 5, generator).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="6 states cannot be drawn from 5"):
        drawn_states(5, 6, generator)
