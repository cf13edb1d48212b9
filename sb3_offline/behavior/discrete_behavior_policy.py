"""The behaviour policy pi_beta for discrete actions: a categorical network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch as th
from torch import nn

from sb3_offline.behavior.behavior_policy import BehaviorNetwork, linear


class DiscreteBehaviorPolicy(BehaviorNetwork):
    """
    pi_beta(a|s), the softmax of a network's logits. :func:`~sb3_offline.behavior.behavior_fit.fit_behavior_policy` fits it by
    maximum likelihood to one-hot actions.

    :param observation_dim: D, observations are (B, D)
    :param n_actions: A
    :param hidden_sizes: widths of the ReLU layers
    :param generator: CPU generator, the only source of the initial weights
    """

    def __init__(
        self, observation_dim: int, n_actions: int, *, hidden_sizes: Sequence[int] = (256, 256), generator: th.Generator
    ) -> None:
        super().__init__(observation_dim, n_actions)
        sizes = [observation_dim, *hidden_sizes, n_actions]
        layers = [layer for n_in, n_out in pairwise(sizes) for layer in (linear(n_in, n_out, generator), nn.ReLU())]
        self.logits = nn.Sequential(*layers[:-1])

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """log pi_beta(.|s), (B, A), at observations (B, D)."""
        return th.log_softmax(self.logits(self.standardize(observations)), dim=1)

    def log_prob(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """log pi_beta(a|s), (B,), of one-hot actions (B, A)."""
        return (self(observations) * actions).sum(dim=1)
