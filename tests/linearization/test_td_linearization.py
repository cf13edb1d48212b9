"""Data vectors, excitation and remainder against closed forms; the two-layer linear network exactly."""

from __future__ import annotations

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sb3_offline.diagnostics import QFunction, Transitions
from sb3_offline.diagnostics.linear_network import TwoLayerCritic, exact_remainder
from sb3_offline.linearization.td_linearization import bellman_residuals, data_vectors, excitation, linearize

N1, N2, M = 3, 4, 5


def gen(seed: int) -> th.Generator:
    return th.Generator().manual_seed(seed)


def two_layer(seed: int, phi1: nn.Module) -> TwoLayerCritic:
    g = gen(seed)
    w1 = th.randn(N1, generator=g, dtype=th.float64)
    return TwoLayerCritic(w1, th.randn(N2, N1, generator=g, dtype=th.float64), phi1)


def moved(critic: TwoLayerCritic, size: float) -> TwoLayerCritic:
    other = two_layer(7, critic.phi1)
    offset1, offset2 = other.w1.detach(), other.w2t.detach().T
    return TwoLayerCritic(critic.w1.detach() + size * offset1, critic.w2t.detach().T + size * offset2, critic.phi1)


def transitions(seed: int = 1) -> Transitions:
    g = gen(seed)
    z, z_next = (th.randn(M, N2, generator=g, dtype=th.float64) for _ in range(2))
    rewards = th.randn(M, generator=g, dtype=th.float64)
    return Transitions(z, None, rewards, th.tensor([0.9, 0.9, 0.0, 0.9, 0.9], dtype=th.float64), z_next, None)


@pytest.mark.parametrize("phi1", [nn.Identity(), nn.Tanh(), nn.Softplus()])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_data_vector_is_h_and_g_w1(phi1: nn.Module, chunk_size: int | None) -> None:
    critic, batch = two_layer(0, phi1), transitions()
    data = data_vectors(QFunction(critic), batch, chunk_size=chunk_size)
    expected = critic.data_vectors(batch.observations, batch.next_observations, batch.discounts)
    assert data.shape == (M, N1 + N1 * N2)
    assert th.allclose(data, expected, atol=1e-13)
    # the first block is h, where e = w1.h - r
    residuals = bellman_residuals(QFunction(critic), batch)
    assert th.allclose(residuals, expected[:, :N1] @ critic.w1.detach() - batch.rewards, atol=1e-13)


def test_semi_gradient_ignores_the_successor() -> None:
    critic, batch = two_layer(0, nn.Tanh()), transitions()
    semi = data_vectors(QFunction(critic), batch, semi_gradient=True)
    assert th.allclose(semi, critic.data_vectors(batch.observations, batch.next_observations, 0 * batch.discounts))


@pytest.mark.parametrize(("at", "sign"), [("current", 1.0), ("reference", -1.0)])
def test_remainder_of_the_linear_network_is_exact(at: str, sign: float) -> None:
    reference, batch = two_layer(0, nn.Identity()), transitions()
    critic = moved(reference, 0.7)
    line = linearize(QFunction(critic), reference, batch, at=at)  # type: ignore[arg-type]
    by_hand = exact_remainder(critic, reference, batch.observations, batch.next_observations, batch.discounts)
    assert by_hand.abs().min() > 1e-3
    assert th.allclose(line.remainder, sign * by_hand, atol=1e-12)
    w1, w2 = (critic.w1 - reference.w1).detach(), (critic.w2t - reference.w2t).detach().T
    x = batch.observations[0] - batch.discounts[0] * batch.next_observations[0]
    assert float(by_hand[0]) == pytest.approx(-float(w1 @ (w2.T @ x)), abs=1e-13)


def test_exact_remainder_is_refused_for_an_activation() -> None:
    critic, batch = two_layer(0, nn.Tanh()), transitions()
    with pytest.raises(ValueError, match="Identity"):
        exact_remainder(critic, critic, batch.observations, batch.next_observations, batch.discounts)


@pytest.mark.parametrize("phi1", [nn.Identity(), nn.Tanh()])
def test_halving_the_offset_divides_the_remainder_by_four(phi1: nn.Module) -> None:
    reference, batch = two_layer(0, phi1), transitions()
    sizes = [linearize(QFunction(moved(reference, s)), reference, batch).remainder.norm() for s in (2e-3, 1e-3, 5e-4)]
    assert float(sizes[0] / sizes[1]) == pytest.approx(4, rel=1e-2)
    assert float(sizes[1] / sizes[2]) == pytest.approx(4, rel=1e-2)


def test_linear_part_is_the_data_vector_times_the_offset() -> None:
    reference, batch = two_layer(0, nn.Tanh()), transitions()
    critic = moved(reference, 0.3)
    q = QFunction(critic)
    offset = th.cat([(p - p0).detach().flatten() for p, p0 in zip(critic.parameters(), reference.parameters(), strict=True)])
    line = linearize(q, reference, batch)
    assert th.allclose(line.linear, data_vectors(q, batch) @ offset, atol=1e-12)
    assert th.allclose(line.pivot, bellman_residuals(QFunction(reference), batch), atol=1e-13)
    expected = (line.residuals - line.pivot - line.linear).abs() / ((line.residuals - line.pivot).abs() + 1e-8)
    assert th.allclose(line.remainder_ratio(), expected)
    same = linearize(q, critic, batch)
    assert same.remainder_ratio().tolist() == [0.0] * M


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no copy of the critic.*'w1'"):
        linearize(QFunction(two_layer(0, nn.Tanh())), nn.Linear(4, 1), transitions())


def test_excitation_of_two_orthogonal_vectors() -> None:
    result = excitation(th.tensor([[1.0, 0.0], [0.0, 2.0]]))
    # E = diag(1/4, 4/25)
    assert (result.lam_min, result.lam_min_gram, result.lam_max) == pytest.approx((0.16, 0.16, 0.25), abs=1e-15)
    assert result.rank == 2
    assert result.largest_stable_step == pytest.approx(8.0)


def test_fewer_transitions_than_weights_never_excite_all_of_them() -> None:
    data = th.randn(4, 9, generator=gen(0), dtype=th.float64)
    result = excitation(data)
    weights = data.square().sum(1) + 1
    matrix = (data / weights[:, None]).T @ (data / weights[:, None])
    spectrum = th.linalg.eigvalsh(matrix)
    assert result.lam_min == 0.0
    assert result.rank == 4
    assert result.lam_min_gram == pytest.approx(float(spectrum[5]), rel=1e-10)  # 5 zeros below
    assert result.lam_max == pytest.approx(float(spectrum[-1]), rel=1e-12)
    full = excitation(th.randn(20, 3, generator=gen(1)))
    assert full.rank == 3
    assert full.lam_min == full.lam_min_gram > 0
    nothing = excitation(th.zeros(3, 2))
    assert (nothing.lam_min, nothing.lam_min_gram, nothing.lam_max, nothing.rank) == (0, 0, 0, 0)
    assert nothing.largest_stable_step == float("inf")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(-3, 3), st.integers(0, 10_000))
def test_largest_excitation_is_at_most_a_quarter_of_the_window(m: int, p: int, scale: float, seed: int) -> None:
    data = 10**scale * th.randn(m, p, generator=gen(seed), dtype=th.float64)
    assert excitation(data).lam_max <= m / 4 + 1e-12


def test_columns_from_sb3s_buffers_are_refused_until_flattened() -> None:
    with pytest.raises(ValueError, match=r"\.flatten\(\)"):
        Transitions(th.zeros(2, 1), None, th.zeros(2, 1), th.zeros(2), th.zeros(2, 1), None)
