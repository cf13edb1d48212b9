"""The normalised critic rule against values worked out by hand."""

from __future__ import annotations

import pytest
import torch as th
from torch import nn

from sb3_offline.diagnostics import QFunction, Transitions
from sb3_offline.linearization.normalized_td import normalized_td_step
from sb3_offline.linearization.td_linearization import bellman_residuals, data_vectors, excitation


def linear(n: int = 2) -> nn.Linear:
    net = nn.Linear(n, 1, bias=False, dtype=th.float64)
    nn.init.zeros_(net.weight)
    return net


def one_transition(copies: int = 1, reward: float = 1.0) -> Transitions:
    repeat = lambda row: th.tensor([row] * copies, dtype=th.float64)  # noqa: E731
    return Transitions(repeat([1.0, 0.0]), None, repeat(reward), repeat(0.5), repeat([0.0, 1.0]), None)


def test_one_step_on_a_linear_critic() -> None:
    step = normalized_td_step(QFunction(linear()), one_transition(), 1.0)
    # d = (1, -1/2), e = -1, (1.25 + 1)^2 = 5.0625
    assert step.parameters["weight"].flatten().tolist() == pytest.approx([0.1975309, -0.0987654], abs=5e-8)
    assert step.residuals.tolist() == [-1.0]
    assert step.squared_norms.tolist() == [1.25]


def test_semi_gradient_step() -> None:
    step = normalized_td_step(QFunction(linear()), one_transition(), 1.0, semi_gradient=True)
    assert step.parameters["weight"].tolist() == [[0.25, 0.0]]  # d = (1, 0), e = -1, (1 + 1)^2 = 4


def test_a_target_of_ones_own_is_regressed_on() -> None:
    x = th.tensor([[1.0, 0.0]], dtype=th.float64)
    batch = Transitions(x, None, th.tensor([3.0]).double(), th.zeros(1), x, None)
    assert normalized_td_step(QFunction(linear()), batch, 1.0).parameters["weight"].tolist() == [[0.75, 0.0]]


def test_the_window_is_a_sum_and_nothing_changes_in_place() -> None:
    critic = linear()
    once = normalized_td_step(QFunction(critic), one_transition(), 0.1).parameters["weight"]
    thrice = normalized_td_step(QFunction(critic), one_transition(copies=3), 0.1, chunk_size=2).parameters["weight"]
    assert th.allclose(thrice, 3 * once)
    assert critic.weight.abs().sum() == 0
    q = QFunction(critic)
    q.assign({"weight": once})
    assert th.equal(critic.weight.detach(), once)


def test_it_is_the_gradient_of_the_normalised_loss_with_the_normaliser_frozen() -> None:
    with th.random.fork_rng():
        th.manual_seed(0)
        critic = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
        x, x_next, r = th.randn(9, 2).double(), th.randn(9, 2).double(), th.randn(9).double()
    batch = Transitions(x, None, r, th.full((9,), 0.9).double(), x_next, None)
    step = normalized_td_step(QFunction(critic), batch, 0.01)
    e = critic(x).flatten() - r - 0.9 * critic(x_next).flatten()
    (0.5 * e.square() / (step.squared_norms + 1).square()).sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None
        assert th.allclose(step.parameters[name], parameter.detach() - 0.01 * parameter.grad, atol=1e-14)


@pytest.mark.parametrize(("factor", "grows"), [(0.99, False), (1.01, True)])
def test_steps_are_non_expansive_up_to_two_over_lam_max(factor: float, grows: bool) -> None:
    """Linear critic with rewards that weights w* explain: w - w* follows I - lambda E."""
    generator = th.Generator().manual_seed(3)
    x, x_next = (th.randn(6, 2, generator=generator, dtype=th.float64) for _ in range(2))
    critic = linear()
    q = QFunction(critic)
    zero = Transitions(x, None, th.zeros(6).double(), th.full((6,), 0.9).double(), x_next, None)
    d = data_vectors(q, zero)
    spectrum = excitation(d)
    scaled = d / (1 + d.square().sum(1, keepdim=True))
    top = th.linalg.eigh(scaled.T @ scaled)[1][:, -1]
    q.assign({"weight": top[None]})  # w* = 0, offset along the fastest direction
    step = normalized_td_step(q, zero, factor * spectrum.largest_stable_step)
    assert (float(step.parameters["weight"].norm()) > 1) is grows
    assert spectrum.largest_stable_step >= 8 / 6


def test_residual_gradient_converges_on_a_deterministic_chain() -> None:
    critic = linear()
    q, batch = QFunction(critic), one_transition()
    for _ in range(200):
        q.assign(normalized_td_step(q, batch, 1.0).parameters)
    assert abs(float(bellman_residuals(q, batch))) < 1e-9


def test_learning_rate_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        normalized_td_step(QFunction(linear()), one_transition(), 0.0)
