"""Policies that are an actor alone: a squashed Gaussian, a deterministic one, or for discrete actions a categorical one."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    FlattenExtractor,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor
from stable_baselines3.td3.policies import Actor as TD3Actor
from torch import nn

from sb3_offline.networks.aliases import by_alias
from sb3_offline.networks.choice_policies import ChoosingPolicy
from sb3_offline.networks.choices import Choices, masked
from sb3_offline.networks.gaussian import LOG_STD_MAX, LOG_STD_MIN
from sb3_offline.networks.networks import Normalizer
from sb3_offline.networks.observations import Observations
from sb3_offline.networks.policies import ActorPolicy, add_optimizer


class CategoricalActor(BasePolicy):
    """
    pi(a|s), the softmax of a network's logits.

    :param net_arch: Widths of the hidden layers.
    :param features_dim: Of the features extractor.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.latent_pi = nn.Sequential(*create_mlp(features_dim, -1, net_arch, activation_fn))
        self.logits = nn.Linear(net_arch[-1] if net_arch else features_dim, Choices(action_space).n)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """log pi(.|s), (B, n_actions)."""
        hidden = self.latent_pi(self.extract_features(obs, self.features_extractor))
        return th.log_softmax(self.logits(hidden).float(), dim=1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """The number of the action, (B,)."""
        log_prob = self(observation)
        return log_prob.argmax(dim=1) if deterministic else th.multinomial(log_prob.exp(), 1).squeeze(1)


class CloneActor(Actor):
    """SAC's actor, whose standard deviation cannot collapse on actions that never vary: log std stays in [-5, 2]."""

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """The mean before tanh and log std, (B, action_dim)."""
        mean, log_std, more = super().get_action_dist_params(obs)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX), more


class _ActorAlone(BasePolicy):
    """What SB3's policies do around an actor, without a critic."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        deterministic: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        if isinstance(net_arch, dict):
            raise ValueError("policy_kwargs: net_arch is of the only network here, a list such as [256, 256].")
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
            squash_output=True,
        )
        self.deterministic = deterministic
        self.actor_kwargs = {
            "observation_space": observation_space,
            "action_space": action_space,
            "net_arch": [256, 256] if net_arch is None else net_arch,
            "activation_fn": activation_fn,
            "normalize_images": normalize_images,
        }
        self.actor = self.make_actor()
        add_optimizer(self.actor, self, lr_schedule)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        kind: Any = CategoricalActor
        if isinstance(self.action_space, spaces.Box):
            kind = TD3Actor if self.deterministic else CloneActor
        return kind(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._predict(obs, deterministic=deterministic)

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3: of batch normalisation and dropout."""
        self.actor.set_training_mode(mode)
        self.training = mode

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = (
            "features_extractor_class",
            "features_extractor_kwargs",
            "optimizer_class",
            "optimizer_kwargs",
            "deterministic",
        )
        own = {name: getattr(self, name) for name in names} | self.actor_kwargs
        return super()._get_constructor_parameters() | own | {"lr_schedule": self._dummy_schedule}


class ClonePolicy(ActorPolicy, _ActorAlone):
    """
    An actor and nothing else, with the options of :class:`~sb3_offline.networks.policies.ActorPolicy`: a :class:`CloneActor`,
    or for discrete actions a :class:`CategoricalActor`.

    :param net_arch: Widths of the hidden layers, [256, 256] if not given.
    :param deterministic: TD3's actor in the place of SAC's.
    """

    def layers_of(self, actor: Any) -> tuple[nn.Module, nn.Module]:
        return (actor.latent_pi, actor.logits) if isinstance(actor, CategoricalActor) else super().layers_of(actor)


class ChoosingClonePolicy(ChoosingPolicy, ClonePolicy):
    """A :class:`ClonePolicy` of a :class:`CategoricalActor`."""

    samples = True

    def scores(self, obs: PyTorchObs, allowed: th.Tensor | None) -> th.Tensor:
        return masked(self.deployed_actor(obs), allowed)


CHOOSING_CLONE_POLICIES = by_alias(ChoosingClonePolicy)
_, ChoosingCloneCnnPolicy, ChoosingCloneMultiInputPolicy = CHOOSING_CLONE_POLICIES.values()


CLONE_POLICIES = by_alias(ClonePolicy)
_, CloneCnnPolicy, CloneMultiInputPolicy = CLONE_POLICIES.values()


class CategoricalNetworks:
    """
    A policy's categorical actor on raw observations; a table can stand in for it.

    :param policy: Whose ``actor`` is a :class:`CategoricalActor`.
    :param normalize: Maps raw observations to what the policy was built for.
    """

    def __init__(self, policy: BasePolicy, normalize: Normalizer):
        self.policy: Any = policy
        self.normalize = normalize

    def log_policy(self, observations: Observations) -> th.Tensor:
        """log pi(.|s), (B, n_actions)."""
        return self.policy.actor(self.normalize(observations))
