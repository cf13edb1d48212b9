"""Gradients of Q in its inputs: exact for linear Q, by finite differences, and trainable."""

from __future__ import annotations

import pytest
import torch as th

from sb3_offline.dromo.smoothness import lipschitz_hinge, squared_slopes, wasserstein_excess


class LinearNetworks:
    """Q_j(s, a) = w_j . (s, a) + c_j."""

    def __init__(self, weights: th.Tensor):
        self.weights = weights.clone().requires_grad_()

    def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        n = actions.shape[1]
        inputs = th.cat([observations.unsqueeze(1).expand(-1, n, -1), actions], dim=-1)
        return th.einsum("bni,ji->jbn", inputs, self.weights) + 7.0


class SmoothNetworks:
    def __init__(self) -> None:
        self.layer = th.nn.Sequential(th.nn.Linear(3, 8), th.nn.Tanh(), th.nn.Linear(8, 2)).double()

    def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.layer(th.cat([observations, actions.squeeze(1)], dim=-1)).t().unsqueeze(-1)


def test_linear_q_moves_by_eps_times_the_norm_of_w() -> None:
    """w = (3, 4) and (0, 2): 5 and 2. Moving every sample by eps w/|w|, a W2 distance of eps, adds exactly that."""
    nets, eps = LinearNetworks(th.tensor([[3.0, 4.0], [0.0, 2.0]])), 0.3
    states, actions = th.randn(16, 1), th.rand(16, 1, 1)
    excess = wasserstein_excess(squared_slopes(nets, states, actions, th.ones(1)))
    th.testing.assert_close(excess, th.tensor([5.0, 2.0]))
    shifted = nets.q(states + eps * 0.6, actions + eps * 0.8)[0].mean() - nets.q(states, actions)[0].mean()
    assert float(shifted.detach()) == pytest.approx(eps * 5.0, rel=1e-4)


def test_observations_are_measured_in_their_standard_deviations() -> None:
    nets = LinearNetworks(th.tensor([[3.0, 4.0]]))
    squared = squared_slopes(nets, th.zeros(2, 1), th.zeros(2, 1, 1), th.tensor([10.0]))
    th.testing.assert_close(squared, th.full((1, 2), 30.0**2 + 4.0**2))


def test_slopes_by_finite_differences() -> None:
    th.manual_seed(0)
    nets = SmoothNetworks()
    states, actions = th.randn(4, 2, dtype=th.float64), th.randn(4, 1, 1, dtype=th.float64)
    squared = squared_slopes(nets, states, actions, th.ones(2, dtype=th.float64))
    h, expected = 1e-5, th.zeros(2, 4, dtype=th.float64)
    for step in h * th.eye(3, dtype=th.float64):
        ahead = nets.q(states + step[:2], actions + step[2:])
        behind = nets.q(states - step[:2], actions - step[2:])
        expected += ((ahead - behind).squeeze(-1) / (2 * h)).square()
    th.testing.assert_close(squared, expected, rtol=1e-6, atol=1e-8)


def test_the_penalty_trains_the_weights() -> None:
    """d/dw of |w| is w/|w|; of (|w| - kappa)_+^2 it is 2 (|w| - kappa) w/|w|, and 0 below kappa."""
    w = th.tensor([[3.0, 4.0]])
    nets = LinearNetworks(w)
    inputs = (th.zeros(4, 1), th.zeros(4, 1, 1), th.ones(1))
    (gradient,) = th.autograd.grad(wasserstein_excess(squared_slopes(nets, *inputs)).sum(), nets.weights)
    th.testing.assert_close(gradient, w / 5)
    for bound, expected in ((2.0, 2 * 3.0 * w / 5), (6.0, 0 * w)):
        hinge = lipschitz_hinge(squared_slopes(nets, *inputs), bound)
        assert float(hinge.detach()) == pytest.approx(max(5 - bound, 0) ** 2, rel=1e-5)
        (gradient,) = th.autograd.grad(hinge.sum(), nets.weights)
        th.testing.assert_close(gradient, expected)


def test_a_flat_q_has_a_finite_gradient() -> None:
    nets = LinearNetworks(th.zeros(1, 2))
    squared = squared_slopes(nets, th.zeros(4, 1), th.zeros(4, 1, 1), th.ones(1))
    loss = wasserstein_excess(squared).sum() + lipschitz_hinge(squared, 0.0).sum()
    (gradient,) = th.autograd.grad(loss, nets.weights)
    assert th.isfinite(gradient).all()
