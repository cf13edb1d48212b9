"""What a loss may ask of the networks. A loss sees only this, so an exact table can stand in for the networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch as th
import torch.nn.functional as F
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import Actor, SACPolicy
from stable_baselines3.td3.policies import ContinuousCritic

from sb3_offline.behavior.behavior_policy import ACTION_LIMIT
from sb3_offline.execution.critics import evaluate
from sb3_offline.execution.relu_pass import Workspace
from sb3_offline.networks.observations import Observations, tensors_of

Normalizer = Callable[[Any], Any]
Logs = dict[str, th.Tensor]  # what a loss tells the logger, scalars on the device


class Batch(NamedTuple):
    """
    Transitions from d_f: the first ``n_real`` rows are data, the rest come from the model.

    Observations (B, obs) are raw, those of a Dict space a dict of them by key; actions (B, action_dim) in [-1, 1], rewards and
    dones (terminations) (B,). ``returns`` (B,) are Monte-Carlo returns-to-go, for the algorithms that use them.
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    rewards: th.Tensor
    dones: th.Tensor
    n_real: int
    returns: th.Tensor | None = None

    @classmethod
    def of(cls, real: ReplayBufferSamples, model: ReplayBufferSamples | None = None) -> Batch:
        """Join rows of the data with rows of the model."""
        fields = ("observations", "actions", "next_observations", "rewards", "dones")
        columns = {name: getattr(real, name) for name in fields}
        if model is not None:
            columns = {name: th.cat([column, getattr(model, name)]) for name, column in columns.items()}
        rewards, dones = columns.pop("rewards").flatten(), columns.pop("dones").flatten()
        return cls(**columns, rewards=rewards, dones=dones, n_real=len(real.rewards))


def squashed_gaussian(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Actions tanh(mean + std noise) and their log-density (Haarnoja et al. 2018, appendix C).

    :param mean: (B, action_dim), as ``log_std``; one row a state.
    :param noise: Standard normal, (B, N, action_dim).
    :return: Actions (B, N, action_dim) and log-probabilities (B, N).
    """
    log_std = log_std.unsqueeze(1)
    pre_tanh = mean.unsqueeze(1) + log_std.exp() * noise
    return th.tanh(pre_tanh), _squashed_log_prob(noise, log_std, pre_tanh)


def squashed_gaussian_log_prob(mean: th.Tensor, log_std: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Log-density (B, N) of given actions (B, N, action_dim), clipped to |a| <= 1 - 1e-6; see :func:`squashed_gaussian`."""
    pre_tanh = th.atanh(actions.clamp(-ACTION_LIMIT, ACTION_LIMIT))
    log_std = log_std.unsqueeze(1)
    return _squashed_log_prob((pre_tanh - mean.unsqueeze(1)) * (-log_std).exp(), log_std, pre_tanh)


def _squashed_log_prob(noise: th.Tensor, log_std: th.Tensor, pre_tanh: th.Tensor) -> th.Tensor:
    log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), stable for large |x|
    return (log_prob - 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))).sum(dim=-1)


class SACNetworks:
    """
    A policy's networks, evaluated on N actions for each raw observation.

    :param policy: An SB3 SAC policy.
    :param normalize: Maps raw observations to what the policy was built for (identity, or VecNormalize's statistics).
    """

    def __init__(self, policy: SACPolicy, normalize: Normalizer):
        self.policy = policy
        self.normalize = normalize
        self.workspace = Workspace()

    def sample(self, observations: Observations, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Actions (B, N, action_dim) of the current policy and their log-probabilities (B, N), trunk run once a state."""
        return self.sample_actor(self.policy.actor, observations, noise)

    def sample_actor(self, actor: Actor, observations: Any, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """As :meth:`sample`, for another actor (for instance a target actor)."""
        mean, log_std, _ = actor.get_action_dist_params(self.normalize(observations))
        return squashed_gaussian(mean.to(noise.dtype), log_std.to(noise.dtype), noise)

    def log_prob(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """log pi(a|s) (B, N) of given actions (B, N, action_dim) under the current policy."""
        mean, log_std, _ = self.policy.actor.get_action_dist_params(self.normalize(observations))
        return squashed_gaussian_log_prob(mean.to(actions.dtype), log_std.to(actions.dtype), actions)

    def q(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """Q of every critic: actions (B, N, action_dim) -> (n_critics, B, N)."""
        return self._evaluate(self.policy.critic, observations, actions)

    def q_frozen(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """As :meth:`q`, with gradients to the actions only: nothing is spent on those of the critics."""
        return self._evaluate(self.policy.critic, observations, actions, frozen=True)

    def q_target(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """Q of every target critic, shaped as :meth:`q`."""
        return self._evaluate(self.policy.critic_target, observations, actions)

    def _evaluate(
        self, critic: ContinuousCritic, observations: Observations, actions: th.Tensor, frozen: bool = False
    ) -> th.Tensor:
        # features once a state, then repeated beside its N actions
        with th.set_grad_enabled(th.is_grad_enabled() and not frozen):
            features = critic.extract_features(self.normalize(observations), critic.features_extractor)
        n_states, n_actions = actions.shape[:2]
        inputs = th.cat([features.unsqueeze(1).expand(-1, n_actions, -1), actions], dim=-1).flatten(0, 1)
        twice = any(
            part.requires_grad for part in tensors_of(observations)
        )  # no loss asks for the states' gradients but to differentiate them again
        values = evaluate(critic.q_networks, inputs, workspace=self.workspace, frozen=frozen, twice=twice)
        return values.view(-1, n_states, n_actions)


def identity(observations: Observations) -> Observations:
    """No normalisation."""
    return observations


def vec_normalizer(env: VecNormalize | None, device: th.device) -> Normalizer:
    """``VecNormalize.normalize_obs`` on the device, with its present statistics."""
    if env is None or not env.norm_obs:
        return identity
    statistics = cast(RunningMeanStd, env.obs_rms)  # a dict only for Dict observations, with which it is refused
    mean = th.as_tensor(statistics.mean, dtype=th.float32, device=device)
    std = th.sqrt(th.as_tensor(statistics.var, dtype=th.float32, device=device) + env.epsilon)
    clip = env.clip_obs
    return lambda observations: th.clamp((observations - mean) / std, -clip, clip)
