"""Which actions may be chosen in states that nobody has seen: a network fitted to the data's action masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_offline.behavior.behavior_policy import BehaviorNetwork, linear
from sb3_offline.networks.choices import Choices


class LegalActions(BehaviorNetwork):
    """
    The probability of each entry of a mask, by a network's logits.
    :func:`~sb3_offline.behavior.behavior_fit.fit_behavior_policy` fits it to masks.

    :param observation_dim: D, observations are (B, D)
    :param choices: the actions
    :param hidden_sizes: widths of the ReLU layers
    :param generator: CPU generator, the only source of the initial weights
    """

    def __init__(
        self, observation_dim: int, choices: Choices, *, hidden_sizes: Sequence[int] = (256, 256), generator: th.Generator
    ) -> None:
        super().__init__(observation_dim, choices.mask_size)
        self.choices = choices
        sizes = [observation_dim, *hidden_sizes, choices.mask_size]
        layers = [layer for n_in, n_out in pairwise(sizes) for layer in (linear(n_in, n_out, generator), nn.ReLU())]
        self.logits = nn.Sequential(*layers[:-1])

    def log_prob(self, observations: th.Tensor, masks: th.Tensor) -> th.Tensor:
        """The log-likelihood, (B,), of masks (B, mask_size) of 0 and 1."""
        logits = self.logits(self.standardize(observations))
        return -F.binary_cross_entropy_with_logits(logits, masks, reduction="none").sum(dim=1)

    @th.no_grad()
    def masks(self, observations: th.Tensor) -> th.Tensor:
        """Which combinations are more likely allowed than not, (B, n_combinations) bool; of each part one value at least."""
        logits = self.logits(self.standardize(observations))
        parts = th.split(logits, list(self.choices.sizes), dim=1)
        likely = [(part > 0) | (part >= part.amax(dim=1, keepdim=True)) for part in parts]
        return self.choices.combined(th.cat(likely, dim=1))
