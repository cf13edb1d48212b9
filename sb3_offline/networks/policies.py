"""SB3's policies with what offline training asks of them: LayerNorm, orthogonal weights, observations normalised inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    FlattenExtractor,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from stable_baselines3.td3.policies import Actor as TD3Actor
from stable_baselines3.td3.policies import ContinuousCritic, TD3Policy
from torch import nn

from sb3_offline.arguments import POSITIVE, check_number
from sb3_offline.networks.aliases import by_alias
from sb3_offline.networks.gaussian import LOG_STD_MAX, LOG_STD_MIN, gaussian
from sb3_offline.networks.spectral import bound_slope


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

    def fit(self, mean: th.Tensor, std: th.Tensor) -> None:
        """Set the statistics of the observations."""
        self.mean.copy_(mean.flatten())
        self.std.copy_(std.flatten())
        self.fitted.fill_(True)


class ActorPolicy(BasePolicy):
    """
    What the actor of every policy here may have; further keyword arguments are those of the policy beside it.

    :param ortho_init: Orthogonal weights and zero biases (SB3's name); gain sqrt(2), 1 for Q and 0.01 for the actor's head.
    :param normalize_observations: Standardise observations inside the networks, by the statistics of the data.
    :raises ValueError: if observations are not a Box of floats, or another features extractor is asked for too.
    """

    own: tuple[str, ...] = ("ortho_init", "normalize_observations")
    features: type[BaseFeaturesExtractor] = FlattenExtractor  # unless another one is asked for
    actor: Any
    averaged_actor: Any

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        ortho_init: bool = False,
        normalize_observations: bool = False,
        **kwargs: Any,
    ):
        self.ortho_init, self.normalize_observations = ortho_init, normalize_observations
        if normalize_observations:
            if not isinstance(observation_space, spaces.Box) or not np.issubdtype(observation_space.dtype, np.floating):
                raise ValueError(f"normalize_observations needs a Box of floats; this task has {observation_space}.")
            if kwargs.get("features_extractor_class", self.features) not in (FlattenExtractor, NormalizeExtractor):
                raise ValueError("normalize_observations is a features extractor: give it or features_extractor_class.")
            kwargs["features_extractor_class"] = NormalizeExtractor
        kwargs.setdefault("features_extractor_class", self.features)
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        # a copy of the actor whose weights are an average over training, if the algorithm keeps one
        self.averaged_actor = None

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        actor = super().make_actor(features_extractor)  # type: ignore[misc]
        self.init_actor(actor)
        return actor

    def init_actor(self, actor: Any) -> None:
        """The first weights of an actor, where they are not torch's own."""
        if self.ortho_init:
            hidden, head = self.layers_of(actor)
            orthogonal(hidden, 2**0.5)
            orthogonal(head, 0.01)

    def layers_of(self, actor: Any) -> tuple[nn.Module, nn.Module]:
        """An actor's hidden layers, and its head."""
        if isinstance(actor, TD3Actor):
            linear = [layer for layer in actor.mu if isinstance(layer, nn.Linear)]
            return nn.ModuleList(linear[:-1]), linear[-1]
        return actor.latent_pi, nn.ModuleList([actor.mu, actor.log_std])

    @property
    def deployed_actor(self) -> Any:
        """The actor by which the policy acts."""
        return self.actor if self.averaged_actor is None else self.averaged_actor

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self.deployed_actor._predict(observation, deterministic)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """
        As torch's, but an average that is not kept here is passed over, and one that the state lacks begins at the actor:
        SB3's own classes go on from the actor itself.
        """
        prefix = "averaged_actor."
        state = {name: value for name, value in state_dict.items() if not name.startswith(prefix)}
        if self.averaged_actor is not None:
            names = (name for name in self.averaged_actor.state_dict())
            state |= {prefix + name: state_dict.get(prefix + name, state_dict[f"actor.{name}"]) for name in names}
        return super().load_state_dict(state, strict, assign)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in self.own}


class OfflinePolicy(ActorPolicy):
    """
    Beside one of SB3's policies, and exactly that while the options are off; further keyword arguments are SB3's.

    :param layer_norm: LayerNorm after each hidden linear layer of the critics (as in RLPD, Ball et al. 2023).
    :param spectral_norm: Largest slope of each Q in its features and actions: after each step the largest singular values of
        a critic's L linear layers are brought down to its L-th root (Gouk et al. 2021). It holds for activations of slope at
        most 1, such as ReLU and tanh.
    :raises ValueError: if spectral_norm is not positive, or is to bound what LayerNorm scales again.
    """

    own = ("layer_norm", "spectral_norm", *ActorPolicy.own)
    critic_kwargs: dict[str, Any]
    activation_fn: type[nn.Module]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        layer_norm: bool = False,
        spectral_norm: float | None = None,
        **kwargs: Any,
    ):
        if spectral_norm is not None:
            spectral_norm = check_number("spectral_norm", spectral_norm, POSITIVE)
            if layer_norm:
                raise ValueError(
                    "spectral_norm bounds no slope behind LayerNorm, which undoes every scale: "
                    f"policy_kwargs=dict(spectral_norm={spectral_norm:g}, layer_norm=False)."
                )
        self.layer_norm, self.spectral_norm = layer_norm, spectral_norm
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        critic = super().make_critic(features_extractor)  # type: ignore[misc]
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
        self.bound_slopes(critic)
        return critic

    def bound_slopes(self, critic: ContinuousCritic) -> None:
        """Keep each Q to the slope of ``spectral_norm``, if there is one."""
        if self.spectral_norm is not None:
            for q_network in critic.q_networks:
                bound_slope(q_network, self.spectral_norm)


def unfitted_normalizers(module: nn.Module) -> list[NormalizeExtractor]:
    """Those of ``normalize_observations`` whose statistics are not set yet: what networks were trained with stays."""
    return [part for part in module.modules() if isinstance(part, NormalizeExtractor) and not bool(part.fitted)]


# --- SAC ---


class OfflineSACPolicy(OfflinePolicy, SACPolicy):
    """SB3's ``SACPolicy`` with the options of :class:`OfflinePolicy`."""


# --- a Gaussian actor without entropy ---


class GaussianActor(Actor):
    """Actions around tanh(mean(s)) with one standard deviation for all states, clipped to the box (Kostrikov et al. 2021)."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        del self.log_std
        self.log_std = nn.Parameter(th.zeros(get_action_dim(self.action_space)))

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """The mean before tanh, (B, action_dim), and log std, shaped alike."""
        mean = self.mu(self.latent_pi(self.extract_features(obs, self.features_extractor)))
        return mean, self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).expand_as(mean), {}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        mean, log_std, _ = self.get_action_dist_params(obs)
        actions = th.tanh(mean)
        return actions if deterministic else (actions + log_std.exp() * th.randn_like(actions)).clamp(-1.0, 1.0)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """A sample (B, action_dim), not clipped, and its log-density (B,)."""
        mean, log_std, _ = self.get_action_dist_params(obs)
        actions, log_prob = gaussian(th.tanh(mean), log_std, th.randn_like(mean).unsqueeze(1))
        return actions.squeeze(1), log_prob.squeeze(1)


class GaussianPolicy(OfflineSACPolicy):
    """Critics as SAC's, and a :class:`GaussianActor`."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GaussianActor:
        actor = GaussianActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)
        self.init_actor(actor)
        return actor

    def layers_of(self, actor: Any) -> tuple[nn.Module, nn.Module]:
        return actor.latent_pi, actor.mu


# --- TD3 ---


class OfflineTD3Policy(OfflinePolicy, TD3Policy):
    """
    SB3's ``TD3Policy`` with the options of :class:`OfflinePolicy`.

    :param net_arch: Two hidden layers of 256 if not given, as of every policy here; SB3's own has 400 and 300.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        **kwargs: Any,
    ):
        net_arch = [256, 256] if net_arch is None else net_arch
        super().__init__(observation_space, action_space, lr_schedule, net_arch=net_arch, **kwargs)


POLICIES = by_alias(OfflineSACPolicy, "Offline")
_, OfflineCnnPolicy, OfflineMultiInputPolicy = POLICIES.values()
GAUSSIAN_POLICIES = by_alias(GaussianPolicy)
_, GaussianCnnPolicy, GaussianMultiInputPolicy = GAUSSIAN_POLICIES.values()
TD3_POLICIES = by_alias(OfflineTD3Policy)
_, OfflineTD3CnnPolicy, OfflineTD3MultiInputPolicy = TD3_POLICIES.values()


def orthogonal(module: nn.Module, gain: float) -> None:
    """SB3's orthogonal initialisation of every linear layer within."""
    for layer in module.modules():
        SACPolicy.init_weights(layer, gain)


def add_optimizer(network: Any, policy: BasePolicy, lr_schedule: Schedule) -> None:
    """``network.optimizer``, of the policy's kind."""
    make: Any = policy.optimizer_class
    network.optimizer = make(network.parameters(), lr=lr_schedule(1), **policy.optimizer_kwargs)
