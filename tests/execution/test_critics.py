"""Critics evaluated together: each way gives the plain networks' values and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from torch import nn

from sb3_offline.execution import critics, precision, relu_pass
from sb3_offline.execution.critics import evaluate
from sb3_offline.execution.relu_pass import Workspace, side_by_side


def relu_networks() -> list[nn.Module]:
    th.manual_seed(0)
    return [nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(3)]


def norm_networks() -> list[nn.Module]:
    th.manual_seed(0)
    return [nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1)) for _ in range(2)]


def loss(values: th.Tensor) -> th.Tensor:
    return values.logsumexp(dim=1).sum() + values.square().mean()


def side_by_side_on_a_cpu(networks: list[nn.Module], inputs: th.Tensor) -> th.Tensor:
    return evaluate(networks, inputs, workspace=Workspace())


def in_turns(networks: list[nn.Module], inputs: th.Tensor) -> th.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(critics, "FEW_ROWS", 0)
        return evaluate(networks, inputs, workspace=Workspace())


def batched(networks: list[nn.Module], inputs: th.Tensor) -> th.Tensor:
    assert critics._stackable(networks)
    return critics._stacked(networks, inputs, frozen=False)


@pytest.mark.parametrize("way", [side_by_side_on_a_cpu, in_turns, batched])
@pytest.mark.parametrize("make", [relu_networks, norm_networks])
def test_values_and_gradients(
    way: Callable[[list[nn.Module], th.Tensor], th.Tensor], make: Callable[[], list[nn.Module]]
) -> None:
    networks, inputs = make(), th.randn(12, 5, requires_grad=True)
    leaves = [inputs, *(p for network in networks for p in network.parameters())]
    plain = th.stack([network(inputs).squeeze(-1) for network in networks])
    values = way(networks, inputs)
    th.testing.assert_close(values, plain)
    for actual, expected in zip(th.autograd.grad(loss(values), leaves), th.autograd.grad(loss(plain), leaves), strict=True):
        th.testing.assert_close(actual, expected)


@pytest.mark.parametrize("make", [relu_networks, norm_networks])
def test_frozen_reaches_the_inputs_only(make: Callable[[], list[nn.Module]]) -> None:
    networks, inputs = make(), th.randn(12, 5, requires_grad=True)
    (expected,) = th.autograd.grad(loss(th.stack([network(inputs).squeeze(-1) for network in networks])), [inputs])
    for values in (
        evaluate(networks, inputs, workspace=Workspace(), frozen=True),
        critics._stacked(networks, inputs, frozen=True),
    ):
        weights = list(networks[0].parameters())
        found = th.autograd.grad(loss(values), [inputs, *weights], allow_unused=True)
        th.testing.assert_close(found[0], expected)
        assert all(gradient is None for gradient in found[1:])


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_a_minimum_asks_each_network_for_its_own_rows(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of SAC's actor; where two networks tie, for all rows. The networks are lowest at 4, 8 and 0 rows of 12."""
    monkeypatch.setattr(precision, "available_precision", lambda wanted, _: wanted)
    networks, inputs, workspace = relu_networks(), th.randn(12, 5, requires_grad=True), Workspace()
    asked: list[list[int]] = []
    some_rows = relu_pass._of_some_rows

    def counted(gradient: th.Tensor, rows: list[th.Tensor], *rest: Any) -> th.Tensor:
        asked.append([len(own) for own in rows])
        return some_rows(gradient, rows, *rest)

    monkeypatch.setattr(relu_pass, "_of_some_rows", counted)
    with precision.precision_scope(dtype, "cpu"):
        values = evaluate(networks, inputs, workspace=workspace, frozen=True)
    shift = th.zeros(3, 12)
    shift[0, :4], shift[1, 4:] = -100.0, -100.0
    (found,) = th.autograd.grad((values + shift).amin(dim=0).square().sum(), inputs)
    assert asked == [[4, 8, 0]]
    plain = th.stack([network(inputs).squeeze(-1) for network in networks])
    (expected,) = th.autograd.grad((plain + shift).amin(dim=0).square().sum(), inputs)
    th.testing.assert_close(found, expected, **({} if dtype == "float32" else {"rtol": 0.05, "atol": 0.5}))
    buffers = sum(map(len, workspace._free.values()))
    tied = evaluate(networks, inputs, workspace=workspace, frozen=True) * 0.0 + inputs.sum(dim=1).detach()
    th.autograd.grad(tied.amin(dim=0).sum(), inputs)
    assert asked == [[4, 8, 0]]
    assert sum(map(len, workspace._free.values())) >= buffers


@pytest.mark.parametrize(("few_rows", "n_buffers"), [(0, 3 * 2 + 2), (12, 2 + 2)])
def test_buffers_are_used_again(monkeypatch: pytest.MonkeyPatch, few_rows: int, n_buffers: int) -> None:
    """
    Two hidden layers are kept for backward, of each network or of all; backward takes two more, which the next network's turn
    finds again.
    """
    monkeypatch.setattr(critics, "FEW_ROWS", few_rows)
    networks, inputs, workspace = relu_networks(), th.randn(12, 5), Workspace()
    parameters = [p for network in networks for p in network.parameters()]

    def step() -> set[int]:
        th.autograd.grad(loss(evaluate(networks, inputs, workspace=workspace)), parameters)
        return {buffer.data_ptr() for free in workspace._free.values() for buffer in free}

    first = step()
    assert len(first) == n_buffers
    assert step() == first


def test_parameters_are_laid_side_by_side_once() -> None:
    parameters = [nn.Parameter(th.full((2, 3), float(i))) for i in range(3)]
    ids = [id(parameter) for parameter in parameters]
    stack = side_by_side(parameters)
    th.testing.assert_close(stack, th.arange(3.0).view(3, 1, 1).expand(3, 2, 3))
    assert [id(parameter) for parameter in parameters] == ids  # an optimiser still finds them
    assert side_by_side(parameters).data_ptr() == stack.data_ptr()
    with th.no_grad():
        parameters[1].fill_(7.0)
    parameters[2].data.fill_(8.0)
    th.testing.assert_close(side_by_side(parameters)[:, 0, 0], th.tensor([0.0, 7.0, 8.0]))
    assert side_by_side(parameters).data_ptr() == stack.data_ptr()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_parameter_with_other_memory_is_laid_there_again(index: int) -> None:
    parameters = [nn.Parameter(th.full((2, 3), float(i))) for i in range(3)]
    side_by_side(parameters)
    parameters[index].data = th.full((3, 2), 9.0).t()  # not contiguous either
    stack = side_by_side(parameters)
    assert stack[:, 1, 2].tolist() == [9.0 if i == index else float(i) for i in range(3)]
    assert all(parameter.data_ptr() == part.data_ptr() for parameter, part in zip(parameters, stack, strict=True))


def test_a_copy_of_the_networks_has_its_own_memory() -> None:
    networks, inputs = relu_networks(), th.randn(12, 5)
    before = side_by_side_on_a_cpu(networks, inputs).detach()
    copies = copy.deepcopy(networks)
    side_by_side_on_a_cpu(copies, inputs)
    with th.no_grad():
        for parameter in copies[1].parameters():
            parameter.add_(1.0)
    th.testing.assert_close(side_by_side_on_a_cpu(networks, inputs), before, rtol=0, atol=0)
    changed = side_by_side_on_a_cpu(copies, inputs)
    assert th.equal(changed[::2], before[::2])
    assert not th.equal(changed[1], before[1])


def test_few_rows_and_many_agree() -> None:
    """The two halves of a batch on either side of FEW_ROWS, and an optimiser's step between them."""
    networks = relu_networks()
    inputs = th.randn(critics.FEW_ROWS + 1, 5)
    optimizer = th.optim.Adam([p for network in networks for p in network.parameters()], lr=0.1, fused=True)
    for _ in range(2):
        many, few = (evaluate(networks, rows, workspace=Workspace()) for rows in (inputs, inputs[:-1]))
        th.testing.assert_close(many[:, :-1], few)
        th.testing.assert_close(few, th.stack([network(inputs[:-1]).squeeze(-1) for network in networks]))
        optimizer.zero_grad()
        loss(few).backward()
        optimizer.step()


def test_a_buffer_used_again_too_early_is_an_error() -> None:
    networks, inputs, workspace = relu_networks(), th.randn(12, 5), Workspace()
    parameters = list(networks[0].parameters())
    values = evaluate(networks[:1], inputs, workspace=workspace)
    first = th.autograd.grad(loss(values), parameters, retain_graph=True)
    for again, expected in zip(th.autograd.grad(loss(values), parameters, retain_graph=True), first, strict=True):
        th.testing.assert_close(again, expected)  # nobody has taken them yet
    evaluate(networks[:1], inputs + 1.0, workspace=workspace)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        th.autograd.grad(loss(values), parameters)


@pytest.mark.parametrize("way", [side_by_side_on_a_cpu, in_turns, batched])
@pytest.mark.parametrize("make", [relu_networks, norm_networks])
def test_bf16_rounds_the_products_but_not_q(
    way: Callable[[list[nn.Module], th.Tensor], th.Tensor],
    make: Callable[[], list[nn.Module]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "available_precision", lambda wanted, _: wanted)  # slow where torch emulates it, but exact
    networks, inputs = make(), th.randn(64, 5)
    exact = way(networks, inputs)
    with precision.precision_scope("bf16", "cpu"):
        rounded = way(networks, inputs)
        gradients = th.autograd.grad(loss(rounded), list(networks[0].parameters()))
    assert rounded.dtype == th.float32
    assert not th.equal(rounded, rounded.bfloat16().float())
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-4 < error < 2e-2  # bfloat16 keeps 8 bits: 2^-9 a rounding
    for gradient, expected in zip(gradients, th.autograd.grad(loss(exact), list(networks[0].parameters())), strict=True):
        assert gradient.dtype == th.float32
        assert (gradient - expected).norm() < 0.05 * expected.norm()


def test_only_equal_known_layers_are_batched() -> None:
    first, second = relu_networks()[:2]
    assert critics._stackable([first, second])
    assert not critics._stackable([first, nn.Sequential(nn.Linear(5, 1))])
    assert not critics._stackable([nn.Sequential(nn.Linear(5, 1), nn.ReLU())] * 2)  # no linear layer gives Q
    assert not critics._stackable([nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 1))] * 2)
    assert not critics._stackable([nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 1))] * 2)
