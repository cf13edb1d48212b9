"""A DQN policy with several Q-networks, V and a categorical actor."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import QNetwork
from torch import nn

from sb3_offline.common.offline_dqn import DQNNetworks, one_hot
from sb3_offline.iql.policies import WithValue
from sb3_offline.networks.aliases import by_alias
from sb3_offline.networks.choice_policies import ChoicePolicy
from sb3_offline.networks.choices import masked, renormalized
from sb3_offline.networks.clones import CategoricalActor
from sb3_offline.networks.observations import Observations
from sb3_offline.networks.policies import add_optimizer
from sb3_offline.networks.support import supported


class QNetworks(QNetwork):
    """
    SB3's ``QNetwork`` several times over, on the same features.

    :param n_critics: How many.
    """

    def __init__(self, *args: Any, n_critics: int = 2, **kwargs: Any):
        super().__init__(*args, **kwargs)
        layers = (self.features_dim, int(self.action_space.n), self.net_arch, self.activation_fn)
        self.others = nn.ModuleList(nn.Sequential(*create_mlp(*layers)) for _ in range(n_critics - 1))

    def each(self, obs: PyTorchObs) -> th.Tensor:
        """Q of every network and action, (n_critics, B, n_actions)."""
        features = self.extract_features(obs, self.features_extractor)
        return th.stack([q_net(features) for q_net in (self.q_net, *self.others)])

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """min_j Q_j(s, .), (B, n_actions)."""
        return self.each(obs).amin(dim=0)


class DiscreteValuePolicy(WithValue, ChoicePolicy):
    """
    Acts by its actor, or with a ``support_threshold`` greedily in min_j Q_j among the actions that the actor, a clone then,
    finds likely; further keyword arguments are those of SB3's ``DQNPolicy``.

    :param n_critics: Q-networks, of which the smallest value counts.
    """

    q_net: QNetworks
    q_net_target: QNetworks

    def __init__(self, *args: Any, n_critics: int = 2, support_threshold: float | None = None, **kwargs: Any):
        self.n_critics, self.support_threshold = n_critics, support_threshold
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetworks:
        net_args = {**self.net_args, "action_space": spaces.Discrete(self.choices.n)}
        arguments: Any = self._update_features_extractor(net_args, features_extractor=None)
        return QNetworks(**arguments, n_critics=self.n_critics).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.value_net = self.make_value_net(self.net_args)
        self.actor = CategoricalActor(**self._update_features_extractor(self.net_args, None)).to(self.device)
        for network in (self.value_net, self.actor):
            add_optimizer(network, self, lr_schedule)

    @property
    def samples(self) -> bool:  # type: ignore[override]
        """Whether it acts by its actor."""
        return self.support_threshold is None

    def scores(self, obs: PyTorchObs, allowed: th.Tensor | None) -> th.Tensor:
        log_policy = masked(self.actor(obs), allowed)
        if self.support_threshold is None:
            return log_policy
        return masked(self.q_net(obs), supported(log_policy, self.support_threshold))

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3."""
        super().set_training_mode(mode)
        self.actor.set_training_mode(mode)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"n_critics": self.n_critics, "support_threshold": self.support_threshold}
        return super()._get_constructor_parameters() | own


DISCRETE_VALUE_POLICIES = by_alias(DiscreteValuePolicy)
_, DiscreteValueCnnPolicy, DiscreteValueMultiInputPolicy = DISCRETE_VALUE_POLICIES.values()


class DiscreteValueNetworks(DQNNetworks):
    """With V and an actor; a table can stand in for them."""

    def q(self, observations: Observations) -> th.Tensor:
        return self.network.q_net.each(self.normalize(observations)).float()

    def q_target(self, observations: Observations) -> th.Tensor:
        return self.network.q_net_target.each(self.normalize(observations)).float()

    def value(self, observations: Observations) -> th.Tensor:
        """V(s), (B,)."""
        return self.network.value_net(self.normalize(observations)).float()

    def log_policy(self, observations: Observations) -> th.Tensor:
        """log pi(.|s) of the actor, (B, n_actions)."""
        return self.network.actor(self.normalize(observations))

    log_behavior = log_policy  # where there is a support_threshold, the actor clones

    @th.no_grad()
    def policy(self, observations: Observations, masks: th.Tensor | None = None) -> th.Tensor:
        """pi(a|s), (B, n_actions), as the model acts, among the actions that ``masks`` (likewise) allow."""
        if self.network.support_threshold is None:
            return renormalized(self.log_policy(observations), masks).exp()
        q = self.q(observations).amin(dim=0)
        return one_hot(self.greedy(q, observations, masks), q.shape[1])
