"""Several Q-functions of one policy, each with its target, on shared features."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from torch import nn

from sb3_offline.execution.critics import evaluate
from sb3_offline.execution.relu_pass import Workspace
from sb3_offline.networks.choices import CHOICE_SPACES, Choices
from sb3_offline.networks.networks import identity
from sb3_offline.networks.observations import has_images, n_rows
from sb3_offline.networks.policies import NormalizeExtractor


class FQENetworks(nn.Module):
    """
    N independent heads: of a vector and an action, or with one output an action where these are discrete. Vectors are
    standardised; images and dicts go through SB3's usual extractor, which the heads share.

    :param n_critics: N
    :param net_arch: hidden layers of a head, () for linear ones
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, n_critics: int, net_arch: Sequence[int]):
        super().__init__()
        self.observation_space, self.n_critics = observation_space, n_critics
        self.is_discrete = isinstance(action_space, CHOICE_SPACES)
        self.features = _extractor(observation_space)
        n_in = self.features.features_dim + (0 if self.is_discrete else get_action_dim(action_space))
        n_out = Choices(action_space).n if self.is_discrete else 1
        self.heads = nn.ModuleList(nn.Sequential(*create_mlp(n_in, n_out, list(net_arch))) for _ in range(n_critics))
        self.target = copy.deepcopy(nn.ModuleList([self.features, self.heads])).requires_grad_(False)
        self._trained = [*self.features.parameters(), *self.heads.parameters()]
        self._targets = list(self.target.parameters())
        self.workspace = Workspace()
        self.normalize = identity  # for the update runner

    def q(self, observations: Any, actions: th.Tensor | None = None, target: bool = False) -> th.Tensor:
        """
        :param observations: (B, ...), raw
        :param actions: (B, action_dim), scaled to [-1, 1]; None where they are discrete
        :param target: of the target networks
        :return: (N, B, n_actions) where actions are discrete, else (N, B, 1)
        """
        features, heads = self.target if target else (self.features, self.heads)
        inputs = features(preprocess_obs(observations, self.observation_space))
        if actions is not None:
            inputs = th.cat([inputs, actions], dim=1)
        values = evaluate(list(heads.children()), inputs, workspace=self.workspace)
        return values.view(self.n_critics, n_rows(observations), -1)

    @th.no_grad()
    def follow(self, tau: float) -> None:
        """theta' <- tau theta + (1 - tau) theta' for the targets."""
        th._foreach_lerp_([*self._targets], [*self._trained], tau)


def _extractor(space: spaces.Space) -> BaseFeaturesExtractor:
    if isinstance(space, spaces.Dict):
        return CombinedExtractor(space)
    if isinstance(space, spaces.Box) and has_images(space):
        return NatureCNN(space)
    return NormalizeExtractor(space) if isinstance(space, spaces.Box) else FlattenExtractor(space)
