"""Gradients of Q in its inputs, and the penalties made of them."""

from __future__ import annotations

from typing import Protocol

import torch as th

_TINY = 1e-12  # keeps roots smooth where a gradient vanishes


class QFunctions(Protocol):
    """Anything that has ``q``: (B, obs), (B, 1, action_dim) -> (n_critics, B, 1)."""

    def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor: ...


def squared_slopes(nets: QFunctions, observations: th.Tensor, actions: th.Tensor, scale: th.Tensor) -> th.Tensor:
    """
    \\|grad_{(s, a)} Q\\|^2 at each pair, differentiable in the critics' weights.

    :param observations: (B, obs), raw.
    :param actions: (B, 1, action_dim), in [-1, 1].
    :param scale: (obs,), the unit of length of each observation: its standard deviation in the data.
    :return: (n_critics, B)
    """
    inputs = (observations.detach().clone().requires_grad_(), actions.detach().clone().requires_grad_())
    with th.enable_grad():
        q = nets.q(*inputs)
        slopes = []
        for values in q:  # rows do not touch each other, so the gradient of the sum holds every row's own
            by_state, by_action = th.autograd.grad(values.sum(), inputs, create_graph=True)
            slopes.append((scale * by_state).square().sum(dim=-1) + by_action.square().sum(dim=(-2, -1)))
    return th.stack(slopes)


def wasserstein_excess(squared: th.Tensor) -> th.Tensor:
    """
    sqrt(E \\|grad Q\\|^2) of each critic, (n_critics,): to first order what a unit of 2-Wasserstein distance adds to E Q at
    most, and exactly so for linear Q (Gao, Chen and Kleywegt 2017).
    """
    return (squared.mean(dim=1) + _TINY).sqrt()


def lipschitz_hinge(squared: th.Tensor, bound: float) -> th.Tensor:
    """E (\\|grad Q\\| - kappa)_+^2 of each critic: (n_critics,)."""
    return ((squared + _TINY).sqrt() - bound).clamp(min=0).square().mean(dim=1)
