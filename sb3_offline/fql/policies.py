"""Policies that make an action of noise: in one step, beside a flow that takes many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor
from torch import nn

from sb3_offline.networks.aliases import by_alias
from sb3_offline.networks.networks import ActorCriticNetworks
from sb3_offline.networks.observations import Observations
from sb3_offline.networks.policies import OfflineTD3Policy


class OneStepActor(Actor):
    """mu(s, z), clipped to [-1, 1], z standard normal; ``deterministic=True`` takes z = 0."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Box, **kwargs: Any):
        super().__init__(observation_space, action_space, **kwargs)
        self.action_dim = get_action_dim(action_space)
        layers = create_mlp(self.features_dim + self.action_dim, self.action_dim, self.net_arch, self.activation_fn)
        self.mu = nn.Sequential(*layers)

    def of_noise(self, obs: PyTorchObs, noise: th.Tensor) -> th.Tensor:
        """mu(s, z), not clipped: noise (B, N, action_dim) -> (B, N, action_dim)."""
        features = self.extract_features(obs, self.features_extractor)
        return self.mu(beside(features, noise))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        features = self.extract_features(obs, self.features_extractor)
        noise = features.new_zeros(features.shape[0], self.action_dim)
        noise = noise if deterministic else th.randn_like(noise)
        return self.mu(th.cat([features, noise], dim=-1)).clamp(-1.0, 1.0)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)


class VelocityField(BaseModel):
    """v(s, x, t), along which noise x at t = 0 becomes an action of the data's at t = 1."""

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_dim: int,
        activation_fn: type[nn.Module],
        **kwargs: Any,
    ):
        super().__init__(observation_space, action_space, **kwargs)
        dim = get_action_dim(action_space)
        self.velocity = nn.Sequential(*create_mlp(features_dim + dim + 1, dim, net_arch, activation_fn))

    def at(self, obs: PyTorchObs) -> Callable[[th.Tensor, th.Tensor], th.Tensor]:
        """The field at these states: (B, N, action_dim), (B, N, 1) -> (B, N, action_dim)."""
        features = self.extract_features(obs, self.features_extractor)
        return lambda x, t: self.velocity(beside(features, th.cat([x, t], dim=-1)))


def beside(features: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """A state's features beside each of its N rows: (B, n), (B, N, m) -> (B, N, n + m)."""
    return th.cat([features.unsqueeze(1).expand(-1, rows.shape[1], -1), rows], dim=-1)


class FlowPolicy(OfflineTD3Policy):
    """
    A :class:`OneStepActor`, a :class:`VelocityField` of the same layers as ``flow``, and critics.

    :param net_arch: Four hidden layers of 512 if not given, as in the paper.
    :param layer_norm: LayerNorm in the critics.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.GELU,
        layer_norm: bool = True,
        **kwargs: Any,
    ):
        net_arch = [512, 512, 512, 512] if net_arch is None else net_arch
        kwargs |= {"net_arch": net_arch, "activation_fn": activation_fn, "layer_norm": layer_norm}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        del self.actor_target
        self.flow = VelocityField(**self._update_features_extractor(self.actor_kwargs, None)).to(self.device)
        optimizer: Any = self.optimizer_class
        self.flow.optimizer = optimizer(self.flow.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> OneStepActor:
        actor = OneStepActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)
        self.init_actor(actor)
        return actor

    def set_training_mode(self, mode: bool) -> None:
        super().set_training_mode(mode)
        self.flow.set_training_mode(mode)


FLOW_POLICIES = by_alias(FlowPolicy)
_, FlowCnnPolicy, FlowMultiInputPolicy = FLOW_POLICIES.values()


class FlowNetworks(ActorCriticNetworks):
    """With a one-step actor and a flow; actions and noise (B, N, action_dim)."""

    def act(self, observations: Observations, noise: th.Tensor) -> th.Tensor:
        return self.one_step(observations, noise).clamp(-1.0, 1.0)

    def one_step(self, observations: Observations, noise: th.Tensor) -> th.Tensor:
        """mu(s, z), not clipped."""
        return self.policy.actor.of_noise(self.normalize(observations), noise).float()

    def field(self, observations: Observations) -> Callable[[th.Tensor, th.Tensor], th.Tensor]:
        """v(s, ., .), of x and of t (B, N, 1)."""
        velocity = self.policy.flow.at(self.normalize(observations))
        return lambda x, t: velocity(x, t).float()
