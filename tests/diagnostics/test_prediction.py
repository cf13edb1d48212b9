"""The corrected Eq 37 is right to first order; the printed one is not. The beta bound separates its two sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th
from torch import nn

from sb3_offline.diagnostics import QFunction, ntk
from sb3_offline.diagnostics.prediction import LossWeights, conservative_weight_threshold, predict_q_change

N = 6
WEIGHTS = LossWeights(real_ratio=0.4, conservative_weight=0.7, robust_weight=0.5, count=4)


def problem(seed: int = 0) -> dict[str, Any]:
    with th.random.fork_rng():
        th.manual_seed(seed)
        critic = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        x = th.randn(N, 2).double()
        d, rho = (th.softmax(th.randn(N), 0).double() for _ in range(2))
        return {"critic": critic, "x": x, "y": th.randn(N).double(), "d": d / d.sum(), "rho": rho / rho.sum()}


def eq17(q: th.Tensor, y: th.Tensor, d: th.Tensor, rho: th.Tensor) -> th.Tensor:
    d_f = 0.4 * d + 0.6 * rho
    variance = d_f @ q**2 - (d_f @ q) ** 2
    return 0.5 * d_f @ (q - y) ** 2 + 0.7 * (rho @ q - d @ q) + 0.5 / 2 * variance.sqrt()


def actual_change(p: dict[str, Any], rate: float) -> th.Tensor:
    critic, names = p["critic"], [name for name, _ in p["critic"].named_parameters()]
    q = critic(p["x"]).flatten()
    gradients = th.autograd.grad(eq17(q, p["y"], p["d"], p["rho"]), list(critic.parameters()))
    parameters = critic.state_dict()
    stepped = {name: parameters[name] - rate * g for name, g in zip(names, gradients, strict=True)}
    return (th.func.functional_call(critic, stepped, (p["x"],)).flatten() - q).detach()


def prediction(p: dict[str, Any], rate: float) -> th.Tensor:
    q = QFunction(p["critic"])(p["x"]).detach()
    return predict_q_change(ntk.kernel(p["critic"], p["x"]), q, p["y"], p["d"], p["rho"], WEIGHTS, rate)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_falls_by_four_when_the_step_halves(seed: int) -> None:
    p = problem(seed)
    errors = [float((prediction(p, rate) - actual_change(p, rate)).norm()) for rate in (0.01, 0.005, 0.0025)]
    assert errors[0] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_the_printed_form_leaves_a_first_order_error() -> None:
    """D_f squared in place of d_f d_f^T: the error only halves with the step."""
    p = problem()
    kernel = ntk.kernel(p["critic"], p["x"])
    q = QFunction(p["critic"])(p["x"]).detach()
    d_f = 0.4 * p["d"] + 0.6 * p["rho"]
    std = (d_f @ q**2 - (d_f @ q) ** 2).sqrt()
    gap = 0.25 * (kernel @ ((d_f**2 * q) - d_f * (d_f @ q))) / std  # by how much the two forms differ, per unit step
    errors = [float((prediction(p, rate) + rate * gap - actual_change(p, rate)).norm()) for rate in (0.01, 0.005)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


def test_hand_computed_change() -> None:
    # d_f = (1/2, 1/2), Q = (0, 2): sigma = 1, (D_f - d_f d_f^T) Q = (-1/2, 1/2); y - Q = (1, -1); rho - d = (-.2, .2)
    weights = LossWeights(0.5, conservative_weight=2.0, robust_weight=3.0, count=9.0)
    arguments = ([[2.0, 0.0], [0.0, 4.0]], [0.0, 2.0], [1.0, 1.0], [0.6, 0.4], [0.4, 0.6])
    # descent = (.5 + .4 + .5, -.5 - .4 - .5) = (1.4, -1.4)
    assert predict_q_change(*arguments, weights, 0.1).tolist() == pytest.approx([0.28, -0.56], abs=1e-14)


def test_equal_values_have_no_robust_gradient() -> None:
    weights = LossWeights(0.5, robust_weight=3.0)
    change = predict_q_change(th.eye(2), [1.0, 1.0], [1.0, 1.0], [0.5, 0.5], [0.5, 0.5], weights, 0.1)
    assert change.tolist() == [0.0, 0.0]


def test_beta_threshold_separates_its_two_sides() -> None:
    p = problem(1)
    with th.random.fork_rng():
        th.manual_seed(5)
        policy_targets, start = th.randn(N).double(), th.softmax(th.randn(N), 0).double()
    kernel, q = ntk.kernel(p["critic"], p["x"]), QFunction(p["critic"])(p["x"]).detach()
    d, rho = p["d"], p["rho"]
    if float(start @ kernel @ (rho - d)) < 0:
        d, rho = rho, d
    threshold = conservative_weight_threshold(kernel, q, p["y"], policy_targets, start, d, rho, WEIGHTS)
    d_f = 0.4 * d + 0.6 * rho
    towards_policy = start @ kernel @ (d_f * (policy_targets - q))  # what a step towards T^pi Q would add

    def start_value(beta: float) -> float:
        weights = LossWeights(0.4, beta, WEIGHTS.robust_weight, WEIGHTS.count)
        return float(start @ predict_q_change(kernel, q, p["y"], d, rho, weights, 1.0))

    assert start_value(threshold + 1e-6) < towards_policy < start_value(threshold - 1e-6)
    with pytest.raises(ValueError, match="not positive"):
        conservative_weight_threshold(kernel, q, p["y"], policy_targets, start, rho, d, WEIGHTS)


@pytest.mark.parametrize("bad", [{"real_ratio": 1.5}, {"real_ratio": 0.5, "count": 0}])
def test_weights_out_of_range_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(reversed(bad))):
        LossWeights(**bad)
