"""PreQN's step: exact on a linear critic, and honest where the line search cannot succeed."""

from __future__ import annotations

import math

import pytest
import torch as th
from torch import nn

from sb3_offline.diagnostics import NonFiniteKernelError, QFunction, Transitions
from sb3_offline.preqn import LineSearch, preqn_step
from sb3_offline.preqn.update import solve_kernel, td_errors


def linear(n: int) -> nn.Linear:
    with th.random.fork_rng():
        th.manual_seed(0)
        return nn.Linear(n, 1, bias=False, dtype=th.float64)


def regression(x: th.Tensor, delta: list[float], critic: nn.Module) -> Transitions:
    """Transitions whose TD errors are ``delta``."""
    rewards = critic(x).detach().flatten() + th.tensor(delta, dtype=x.dtype)
    return Transitions(x, None, rewards, th.zeros_like(rewards), x, None)


def change_of_q(critic: nn.Module, x: th.Tensor, parameters: dict[str, th.Tensor]) -> th.Tensor:
    q = QFunction(critic)
    return (q(x, parameters=parameters) - q(x)).detach()


@pytest.mark.parametrize("a", [0.05, 1.0])
def test_linear_critic_moves_by_a_delta_exactly(a: float) -> None:
    critic = linear(8)
    x = th.randn(5, 8, generator=th.Generator().manual_seed(1), dtype=th.float64)
    next_x = th.randn(5, 8, generator=th.Generator().manual_seed(2), dtype=th.float64)
    batch = Transitions(x, None, th.arange(5.0).double(), th.full((5,), 0.9, dtype=th.float64), next_x, None)
    delta = (th.arange(5.0) + 0.9 * critic(next_x).flatten() - critic(x).flatten()).detach()
    assert th.allclose(td_errors(QFunction(critic), batch), delta, atol=1e-14)
    before = critic.weight.detach().clone()
    step = preqn_step(QFunction(critic), batch, LineSearch(step_size=a))
    assert (step.status, step.step_size, step.backtracks, step.rank) == ("accepted", a, 0, 5)
    assert step.cosine == pytest.approx(1, abs=1e-12)
    assert (change_of_q(critic, x, step.parameters) - a * delta).abs().max() < 1e-12
    # the minimum-norm solution lies in the span of the rows
    move = (step.parameters["weight"] - before).flatten()
    assert th.allclose(th.linalg.pinv(x) @ (x @ move), move, atol=1e-12)
    assert th.equal(critic.weight.detach(), before)  # pure


DUPLICATES = th.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=th.float64)


def test_contradicting_duplicates_can_never_align_and_are_skipped() -> None:
    critic = linear(2)
    batch = regression(DUPLICATES, [1.0, 2.0, 3.0], critic)
    for a in (1e-3, 0.05, 1.0):
        step = preqn_step(QFunction(critic), batch, LineSearch(step_size=a))
        assert step.status == "skipped"
        assert step.cosine == pytest.approx(0.92582, abs=5e-6)
        assert step.backtracks == 10
        assert step.step_size == 0
        assert th.equal(step.parameters["weight"], critic.weight.detach())


def test_projected_alignment_accepts_what_the_network_can_do() -> None:
    critic = linear(2)
    batch = regression(DUPLICATES, [1.0, 2.0, 3.0], critic)
    step = preqn_step(QFunction(critic), batch, LineSearch(align_to="projected"))
    assert (step.status, step.rank, step.backtracks) == ("accepted", 2, 0)
    change = change_of_q(critic, DUPLICATES, step.parameters)
    assert change.tolist() == pytest.approx([0.1, 0.1, 0.1], abs=1e-13)  # (2, 2, 2) a


def test_a_lower_threshold_accepts_the_duplicates() -> None:
    critic = linear(2)
    batch = regression(DUPLICATES, [1.0, 2.0, 3.0], critic)
    assert preqn_step(QFunction(critic), batch, LineSearch(cosine=0.92)).status == "accepted"


@pytest.mark.parametrize("delta", [[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]])
@pytest.mark.parametrize("align_to", ["delta", "projected"])
def test_nothing_to_do_is_no_step_and_no_nan(delta: list[float], align_to: str) -> None:
    critic = linear(2)
    batch = regression(DUPLICATES, delta, critic)
    step = preqn_step(QFunction(critic), batch, LineSearch(align_to=align_to))  # type: ignore[arg-type]
    assert (step.status, step.step_size) == ("zero", 0.0)
    assert math.isnan(step.cosine)
    assert th.equal(step.parameters["weight"], critic.weight.detach())


def test_line_search_halves_the_step_until_the_change_follows_delta() -> None:
    with th.random.fork_rng():
        th.manual_seed(0)
        critic = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)).double()
        x = th.randn(6, 2).double()
    batch = regression(x, [3.0, -2.0, 1.0, 4.0, -1.0, 2.0], critic)
    search = LineSearch(step_size=8.0, decay=0.5, max_backtracks=20)
    step = preqn_step(QFunction(critic), batch, search)
    assert step.status == "accepted"
    assert step.backtracks > 0
    assert step.step_size == 8.0 * 0.5**step.backtracks
    delta = td_errors(QFunction(critic), batch)
    cosine = th.cosine_similarity(change_of_q(critic, x, step.parameters), delta, dim=0)
    assert float(cosine) == pytest.approx(step.cosine, abs=1e-12)
    assert step.cosine >= 0.97
    # one backtrack fewer was refused
    fewer = preqn_step(QFunction(critic), batch, LineSearch(step_size=8.0, max_backtracks=step.backtracks - 1))
    assert fewer.status == "skipped"
    assert fewer.cosine < 0.97


def test_small_eigenvalues_are_dropped() -> None:
    kernel = th.diag(th.tensor([1.0, 1e-3, 1e-8], dtype=th.float64))
    z, rank = solve_kernel(kernel, th.ones(3, dtype=th.float64), rcond=1e-6)
    assert rank == 2
    assert z.tolist() == pytest.approx([1.0, 1000.0, 0.0])


def test_float32_critic_keeps_its_dtype() -> None:
    critic = nn.Linear(4, 1)
    x = th.eye(4)[:3]
    step = preqn_step(QFunction(critic), regression(x, [1.0, 2.0, 3.0], critic))
    assert step.parameters["weight"].dtype == th.float32
    assert change_of_q(critic, x, step.parameters).tolist() == pytest.approx([0.05, 0.1, 0.15], abs=1e-6)


def test_bad_input_is_named() -> None:
    critic = linear(2)
    batch = regression(DUPLICATES, [1.0, float("inf"), 0.0], critic)
    with pytest.raises(ValueError, match=r"not finite in rows \[1\]"):
        preqn_step(QFunction(critic), batch)
    with pytest.raises(ValueError, match="decay"):
        LineSearch(decay=1.0)
    with pytest.raises(ValueError, match="align_to='both'"):
        LineSearch(align_to="both")  # type: ignore[arg-type]
    root = nn.Sequential(nn.Linear(2, 1, bias=False, dtype=th.float64), Root())
    with pytest.raises(NonFiniteKernelError, match=r"0\.weight"):
        preqn_step(QFunction(root), regression(0 * DUPLICATES, [1.0, 1.0, 1.0], root))


class Root(nn.Module):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.abs().sqrt()  # infinite slope at 0
