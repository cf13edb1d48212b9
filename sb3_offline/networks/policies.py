"""SB3's SAC policy with what offline training asks of it: LayerNorm, orthogonal weights, observations normalised inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from stable_baselines3.td3.policies import ContinuousCritic
from torch import nn

from sb3_offline.behavior.behavior_policy import observation_moments
from sb3_offline.buffers.rows import Rows


class NormalizeExtractor(FlattenExtractor):
    """
    Flattens, and standardises by statistics that are buffers: they are saved, loaded and exported with the networks.

    :param observation_space: Box of floats.
    """

    mean: th.Tensor
    std: th.Tensor
    fitted: th.Tensor

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space)
        self.register_buffer("mean", th.zeros(self.features_dim))
        self.register_buffer("std", th.ones(self.features_dim))
        self.register_buffer("fitted", th.tensor(False))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return (super().forward(observations) - self.mean) / self.std

    def fit(self, observations: Rows) -> None:
        """Mean and standard deviation of observations (n, ...), once: what the networks were trained with stays."""
        if not bool(self.fitted):
            mean, std = observation_moments(observations)
            self.mean.copy_(mean.flatten())
            self.std.copy_(std.flatten())
            self.fitted.fill_(True)


class OfflineSACPolicy(SACPolicy):
    """
    SB3's ``SACPolicy``, and exactly that while the options are off; further keyword arguments are SB3's.

    :param layer_norm: LayerNorm after each hidden linear layer of the critics (as in RLPD, Ball et al. 2023).
    :param ortho_init: Orthogonal weights and zero biases (SB3's name); gain sqrt(2), 1 for Q and 0.01 for the actor's head.
    :param normalize_observations: Standardise observations inside the networks, by the statistics of the data.
    :raises ValueError: if observations are not a Box of floats, or another features extractor is asked for too.
    """

    own = ("layer_norm", "ortho_init", "normalize_observations")
    features: type[BaseFeaturesExtractor] = FlattenExtractor  # unless another one is asked for

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        layer_norm: bool = False,
        ortho_init: bool = False,
        normalize_observations: bool = False,
        **kwargs: Any,
    ):
        self.layer_norm, self.ortho_init, self.normalize_observations = layer_norm, ortho_init, normalize_observations
        if normalize_observations:
            if not isinstance(observation_space, spaces.Box) or not np.issubdtype(observation_space.dtype, np.floating):
                raise ValueError(f"normalize_observations needs a Box of floats; this task has {observation_space}.")
            if kwargs.get("features_extractor_class", self.features) not in (FlattenExtractor, NormalizeExtractor):
                raise ValueError("normalize_observations is a features extractor: give it or features_extractor_class.")
            kwargs["features_extractor_class"] = NormalizeExtractor
        kwargs.setdefault("features_extractor_class", self.features)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor = super().make_actor(features_extractor)
        self.init_actor(actor)
        return actor

    def init_actor(self, actor: Actor) -> None:
        """The first weights of an actor, where they are not torch's own."""
        if self.ortho_init:
            orthogonal(actor.latent_pi, 2**0.5)
            orthogonal(nn.ModuleList([actor.mu, actor.log_std]), 0.01)  # type: ignore[list-item]

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        critic = super().make_critic(features_extractor)
        if self.layer_norm:
            width = critic.features_extractor.features_dim + get_action_dim(self.action_space)
            for index in range(critic.n_critics):
                net_arch: Any = self.critic_kwargs["net_arch"]
                layers = create_mlp(width, 1, net_arch, self.activation_fn, post_linear_modules=[nn.LayerNorm])
                critic.q_networks[index] = nn.Sequential(*layers).to(self.device)
                setattr(critic, f"qf{index}", critic.q_networks[index])
        if self.ortho_init:
            for q_network in critic.q_networks:
                *hidden, last = q_network.children()
                orthogonal(nn.ModuleList(hidden), 2**0.5)
                orthogonal(last, 1.0)
        return critic

    def fit_normalizers(self, observations: Rows) -> None:
        """Set the statistics of ``normalize_observations``, unless they were set before (or loaded)."""
        for module in self.modules():
            if isinstance(module, NormalizeExtractor):
                module.fit(observations)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in self.own}


class OfflineCnnPolicy(OfflineSACPolicy):
    """For images: SB3's ``CnnPolicy`` while the options are off."""

    features = NatureCNN


class OfflineMultiInputPolicy(OfflineSACPolicy):
    """For dict observations: SB3's ``MultiInputPolicy`` while the options are off."""

    features = CombinedExtractor


POLICIES: dict[str, type[OfflineSACPolicy]] = {
    "MlpPolicy": OfflineSACPolicy,
    "CnnPolicy": OfflineCnnPolicy,
    "MultiInputPolicy": OfflineMultiInputPolicy,
}


def orthogonal(module: nn.Module, gain: float) -> None:
    """SB3's orthogonal initialisation of every linear layer within."""
    for layer in module.modules():
        SACPolicy.init_weights(layer, gain)
