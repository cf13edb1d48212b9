"""The behaviour policy pi_beta for discrete actions: a categorical network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch as th
from torch import nn

from sb3_offline.common.behavior_policy import _linear


class DiscreteBehaviorPolicy(nn.Module):
    """
    pi_beta(a|s), the softmax of a network's logits. :func:`~sb3_offline.common.behavior_policy.fit_behavior_policy` fits it by
    maximum likelihood to one-hot actions.

    :param observation_dim: D, observations are (B, D)
    :param n_actions: A
    :param hidden_sizes: widths of the ReLU layers
    :param generator: CPU generator, the only source of the initial weights
    """

    obs_mean: th.Tensor
    obs_std: th.Tensor
    fitted: th.Tensor

    def __init__(
        self, observation_dim: int, n_actions: int, *, hidden_sizes: Sequence[int] = (256, 256), generator: th.Generator
    ) -> None:
        super().__init__()
        self.observation_dim, self.action_dim = observation_dim, n_actions
        sizes = [observation_dim, *hidden_sizes, n_actions]
        layers = [layer for n_in, n_out in pairwise(sizes) for layer in (_linear(n_in, n_out, generator), nn.ReLU())]
        self.logits = nn.Sequential(*layers[:-1])
        self.register_buffer("obs_mean", th.zeros(observation_dim))
        self.register_buffer("obs_std", th.ones(observation_dim))
        self.register_buffer("fitted", th.tensor(False))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """log pi_beta(.|s), (B, A), at observations (B, D)."""
        return th.log_softmax(self.logits((observations - self.obs_mean) / self.obs_std), dim=1)

    def log_prob(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """log pi_beta(a|s), (B,), of one-hot actions (B, A)."""
        return (self(observations) * actions).sum(dim=1)
