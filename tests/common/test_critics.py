"""Critics evaluated together: each way gives the plain networks' values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch as th
from torch import nn

from sb3_offline.common import critics
from sb3_offline.common.critics import Workspace, evaluate
from sb3_offline.common.precision import precision_scope


def relu_networks() -> list[nn.Module]:
    th.manual_seed(0)
    return [nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1)) for _ in range(3)]


def norm_networks() -> list[nn.Module]:
    th.manual_seed(0)
    return [nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 1)) for _ in range(2)]


def loss(values: th.Tensor) -> th.Tensor:
    return values.logsumexp(dim=1).sum() + values.square().mean()


def in_turns(networks: list[nn.Module], inputs: th.Tensor) -> th.Tensor:
    return evaluate(networks, inputs, workspace=Workspace())


def batched(networks: list[nn.Module], inputs: th.Tensor) -> th.Tensor:
    assert critics._stackable(networks)
    return critics._stacked(networks, inputs, frozen=False)


@pytest.mark.parametrize("way", [in_turns, batched])
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


def test_buffers_are_used_again() -> None:
    networks, inputs, workspace = relu_networks(), th.randn(12, 5), Workspace()
    parameters = [p for network in networks for p in network.parameters()]

    def step() -> set[int]:
        th.autograd.grad(loss(evaluate(networks, inputs, workspace=workspace)), parameters)
        return {buffer.data_ptr() for free in workspace._free.values() for buffer in free}

    first = step()
    # three networks keep two hidden layers each; backward takes two more, which the next network's turn finds again
    assert len(first) == 3 * 2 + 2
    assert step() == first


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


@pytest.mark.parametrize("way", [in_turns, batched])
@pytest.mark.parametrize("make", [relu_networks, norm_networks])
def test_bf16_rounds_the_products_but_not_q(
    way: Callable[[list[nn.Module], th.Tensor], th.Tensor], make: Callable[[], list[nn.Module]]
) -> None:
    networks, inputs = make(), th.randn(64, 5)
    exact = way(networks, inputs)
    with precision_scope("bf16", "cpu"):
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
