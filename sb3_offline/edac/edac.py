"""EDAC (An et al. 2021, arXiv 2110.01548): SAC-N with fewer critics, whose gradients in the action are kept apart."""

from __future__ import annotations

from typing import Any

import torch as th
import torch.nn.functional as F

from sb3_offline.arguments import NOT_NEGATIVE, check_number
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.common.terms import Term
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.sacn.sacn import SACN


class EDAC(SACN):
    """
    :class:`~sb3_offline.sacn.sacn.SACN` whose critics pay for gradients grad_a Q_j(s, a) of one direction: where they agree
    on which way Q rises, even the lowest of them is no doubt of what lies there.

    :param eta: Weight of that penalty, beside (Q - y)^2 without the 1/2; 0 is SAC-N.
    """

    def __init__(self, *args: Any, eta: float = 1.0, **kwargs: Any):
        self.eta = check_number("eta", eta, NOT_NEGATIVE)
        super().__init__(*args, **kwargs)

    def make_terms(self) -> list[Term]:
        return [Diversity(self)]


class Diversity(Term):
    """eta / (N - 1) E sum_{i != j} <g_i, g_j> at the logged actions, g_j = grad_a Q_j(s, a) of unit length."""

    name = "diversity"

    @property
    def active(self) -> bool:
        return self.model.eta > 0

    def loss(self, nets: SACNetworks, batch: Batch, noise: SACNoise, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        slopes = nets.q_slopes(batch.observations, batch.actions.unsqueeze(1)).squeeze(2)  # (N, B, action_dim)
        similarity = pairwise_similarity(F.normalize(slopes, dim=-1)).mean()
        return self.model.eta * similarity, {"gradient_similarity": similarity / len(slopes)}


def pairwise_similarity(directions: th.Tensor) -> th.Tensor:
    """1 / (N - 1) sum_{i != j} <g_i, g_j> as (\\|sum_j g_j\\|^2 - sum_j \\|g_j\\|^2) / (N - 1): (N, B, dim) -> (B,)."""
    total, own = directions.sum(dim=0).square().sum(dim=-1), directions.square().sum(dim=(0, -1))
    return (total - own) / (len(directions) - 1)
