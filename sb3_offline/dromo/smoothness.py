"""Gradients of Q in its inputs, and the penalties made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, check_number
from sb3_offline.common.terms import Term
from sb3_offline.networks.networks import Batch, Logs
from sb3_offline.options import option

#: Why an update with slopes can be neither compiled nor captured.
SLOPES = "the gradients of Q in its inputs are differentiated once more"

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


@option
@dataclass(frozen=True)
class Lipschitz:
    """
    weight E_{d_f} (\\|grad_{(s, a)} Q\\| - bound)_+^2, lengths in standard deviations of the observations and units of [-1, 1]
    of the actions.

    :param weight: Of the penalty.
    :param bound: kappa, the slope from which it counts, in units of Q.
    """

    weight: float
    bound: float

    def __post_init__(self) -> None:
        for name in ("weight", "bound"):
            check_number(f"lipschitz[{name!r}]", getattr(self, name), NOT_NEGATIVE)


class LipschitzTerm(Term):
    """The penalty of the model's ``lipschitz``."""

    name = "lipschitz"

    def loss(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        squared = squared_slopes(nets, batch.observations, batch.actions.unsqueeze(1), nets.observation_scale)
        hinge = self.model.lipschitz.weight * lipschitz_hinge(squared, self.model.lipschitz.bound).sum()
        return hinge, {"lipschitz_penalty": hinge, "q_slope": squared.mean().sqrt()}

    def capture_obstacle(self) -> str | None:
        return SLOPES
