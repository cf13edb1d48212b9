"""A Gaussian policy with a network for V(s) beside actor and critics."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_offline.networks.aliases import by_alias
from sb3_offline.networks.networks import GaussianNetworks
from sb3_offline.networks.observations import Observations
from sb3_offline.networks.policies import GaussianPolicy, add_optimizer, orthogonal


class ValueNetwork(BaseModel):
    """
    V(s).

    :param net_arch: Widths of the hidden layers.
    :param features_dim: Of the features extractor.
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: list[int],
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        **kwargs: Any,
    ):
        super().__init__(observation_space, action_space, **kwargs)
        self.v_network = nn.Sequential(*create_mlp(features_dim, 1, net_arch, activation_fn))

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """V, (B,)."""
        return self.v_network(self.extract_features(obs, self.features_extractor)).squeeze(-1)


class WithValue(BasePolicy):
    """A policy that holds V."""

    value_net: ValueNetwork

    def make_value_net(self, like: dict[str, Any]) -> ValueNetwork:
        """
        V, with a features extractor of its own.

        :param like: the arguments of the critic that it resembles
        """
        own = {name: like[name] for name in ("observation_space", "action_space", "net_arch", "activation_fn")}
        own["normalize_images"] = self.normalize_images
        return ValueNetwork(**self._update_features_extractor(own, None)).to(self.device)

    def set_training_mode(self, mode: bool) -> None:
        super().set_training_mode(mode)
        self.value_net.set_training_mode(mode)


class ValuePolicy(WithValue, GaussianPolicy):
    """:class:`~sb3_offline.networks.policies.GaussianPolicy` and ``value_net``, with as many hidden layers as a critic."""

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.value_net = self.make_value_net(self.critic_kwargs)
        if self.ortho_init:
            *hidden, last = self.value_net.v_network.children()
            orthogonal(nn.ModuleList(hidden), 2**0.5)
            orthogonal(last, 1.0)
        add_optimizer(self.value_net, self, lr_schedule)


VALUE_POLICIES = by_alias(ValuePolicy)
_, ValueCnnPolicy, ValueMultiInputPolicy = VALUE_POLICIES.values()


class ValueNetworks(GaussianNetworks):
    """With V."""

    def value(self, observations: Observations) -> th.Tensor:
        """V(s), (B,)."""
        return self.policy.value_net(self.normalize(observations)).float()
