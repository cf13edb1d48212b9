"""What a loss may ask of the networks. A loss sees only this, so an exact table can stand in for the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import Actor
from stable_baselines3.td3.policies import ContinuousCritic

from sb3_offline.execution.critics import are_alike, evaluate
from sb3_offline.execution.relu_pass import Workspace
from sb3_offline.execution.updates import Logs
from sb3_offline.networks.gaussian import gaussian, gaussian_log_prob, squashed_gaussian, squashed_gaussian_log_prob
from sb3_offline.networks.observations import Observations, tensors_of

Normalizer = Callable[[Any], Any]

__all__ = [
    "ActorCriticNetworks",
    "Batch",
    "GaussianNetworks",
    "Logs",
    "Normalizer",
    "SACNetworks",
    "TD3Networks",
    "identity",
    "normalizer_of",
    "squashed_gaussian",
    "squashed_gaussian_log_prob",
    "vec_normalizer",
]


class Batch(NamedTuple):
    """
    Transitions from d_f: the first ``n_real`` rows are data, the rest come from the model.

    Observations (B, obs) are raw, those of a Dict space a dict of them by key; actions (B, action_dim) in [-1, 1], rewards and
    dones (terminations) (B,). For the algorithms that use them: ``returns`` (B,), Monte-Carlo returns-to-go, and
    ``next_actions`` (B, action_dim), the logged actions at the next observations, which mean nothing where ``has_next`` (B,)
    is False; ``weights`` (B,), how much each row counts, of mean 1 over the data;
    ``masks`` and ``next_masks`` (B, n_actions) bool, which actions may be chosen here and next.
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    rewards: th.Tensor
    dones: th.Tensor
    n_real: int
    returns: th.Tensor | None = None
    next_actions: th.Tensor | None = None
    has_next: th.Tensor | None = None
    weights: th.Tensor | None = None
    masks: th.Tensor | None = None
    next_masks: th.Tensor | None = None

    @classmethod
    def of(cls, real: ReplayBufferSamples, model: ReplayBufferSamples | None = None) -> Batch:
        """Join rows of the data with rows of the model."""
        fields = ("observations", "actions", "next_observations", "rewards", "dones")
        columns = {name: getattr(real, name) for name in fields}
        if model is not None:
            columns = {name: th.cat([column, getattr(model, name)]) for name, column in columns.items()}
        rewards, dones = columns.pop("rewards").flatten(), columns.pop("dones").flatten()
        return cls(**columns, rewards=rewards, dones=dones, n_real=len(real.rewards))

    def imagined(self) -> Batch:
        """The rows that come from the model; of vectors."""
        rows = {name: column[self.n_real :] for name, column in self._asdict().items() if isinstance(column, th.Tensor)}
        return self._replace(**rows, n_real=0)


class ActorCriticNetworks:
    """
    A policy's networks, evaluated on N actions for each raw observation: its critics here, its actor in the children.

    :param policy: An SB3 policy with ``critic`` and ``critic_target``.
    :param normalize: Maps raw observations to what the policy was built for (identity, or VecNormalize's statistics).
    """

    def __init__(self, policy: BasePolicy, normalize: Normalizer):
        self.policy: Any = policy
        self.normalize = normalize
        self.workspace = Workspace()
        critics: list[Any] = [getattr(policy, name, None) for name in ("critic", "critic_target")]
        for critic in filter(None, critics):
            are_alike(critic.q_networks, self.workspace)

    def act(self, observations: Observations, noise: th.Tensor) -> th.Tensor:
        """
        Actions (B, N, action_dim), in [-1, 1], as the policy explores and rolls out.

        :param noise: Standard normal, of that shape; a deterministic actor does not look at it.
        """
        raise NotImplementedError

    def q(self, observations: Observations, actions: th.Tensor, twice: bool = False) -> th.Tensor:
        """
        Q of every critic: actions (B, N, action_dim) -> (n_critics, B, N).

        :param twice: The gradients, in the actions for instance, are differentiated again.
        """
        return self._evaluate(self.policy.critic, observations, actions, twice=twice)

    def q_frozen(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """As :meth:`q`, with gradients to the actions only: nothing is spent on those of the critics."""
        return self._evaluate(self.policy.critic, observations, actions, frozen=True)

    def q1_frozen(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """As :meth:`q_frozen`, of the first critic alone, which TD3's actor ascends: (B, N)."""
        return self._evaluate(self.policy.critic, observations, actions, frozen=True, n_critics=1)[0]

    def q_slopes(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """
        grad_a Q of every critic, to be differentiated again: actions (B, N, action_dim) -> (n_critics, B, N, action_dim).
        """
        return self._slopes(observations, actions.expand(len(self.policy.critic.q_networks), *actions.shape))

    def q1_slope(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """grad_a Q of the first critic, a constant to what comes after: (B, N, action_dim), as the actions."""
        return self._slopes(observations, actions.detach(), frozen=True, n_critics=1)

    def q_target(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        """Q of every target critic, shaped as :meth:`q`."""
        return self._evaluate(self.policy.critic_target, observations, actions)

    def _evaluate(
        self,
        critic: ContinuousCritic,
        observations: Observations,
        actions: th.Tensor,
        frozen: bool = False,
        twice: bool = False,
        n_critics: int | None = None,
    ) -> th.Tensor:
        features = self._features(critic, observations, frozen)
        # no loss asks for the states' gradients but to differentiate them again
        twice = twice or any(part.requires_grad for part in tensors_of(observations))
        return self._values(critic, features, actions, frozen, twice, n_critics)

    def _slopes(
        self, observations: Observations, actions: th.Tensor, frozen: bool = False, n_critics: int | None = None
    ) -> th.Tensor:
        critic = self.policy.critic
        features = self._features(critic, observations, frozen)  # outside, for extractors that count what they see

        def total(own: th.Tensor) -> th.Tensor:  # rows and critics do not touch each other: its gradient holds each one's own
            return self._values(critic, features, own, frozen, True, n_critics).sum()

        return th.func.grad(total)(actions)

    def _features(self, critic: ContinuousCritic, observations: Observations, frozen: bool) -> th.Tensor:
        with th.set_grad_enabled(th.is_grad_enabled() and not frozen):
            return critic.extract_features(self.normalize(observations), critic.features_extractor)

    def _values(
        self,
        critic: ContinuousCritic,
        features: th.Tensor,
        actions: th.Tensor,
        frozen: bool,
        twice: bool,
        n_critics: int | None,
    ) -> th.Tensor:
        # features of a state are repeated beside its N actions, or those of each critic
        n_states, n_actions = actions.shape[-3:-1]
        inputs = th.cat([features.unsqueeze(1).expand(*actions.shape[:-1], -1), actions], dim=-1).flatten(-3, -2)
        values = evaluate(critic.q_networks[:n_critics], inputs, workspace=self.workspace, frozen=frozen, twice=twice)
        return values.view(-1, n_states, n_actions)


class SACNetworks(ActorCriticNetworks):
    """With an actor whose actions are normal, then squashed by tanh."""

    def act(self, observations: Observations, noise: th.Tensor) -> th.Tensor:
        return self.sample(observations, noise)[0]

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


class GaussianNetworks(SACNetworks):
    """With the actor of a :class:`~sb3_offline.networks.policies.GaussianPolicy`: normal around tanh(mean), not squashed."""

    def act(self, observations: Observations, noise: th.Tensor) -> th.Tensor:
        return self.sample(observations, noise)[0].clamp(-1.0, 1.0)

    def sample_actor(self, actor: Actor, observations: Any, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        mean, log_std, _ = actor.get_action_dist_params(self.normalize(observations))
        return gaussian(th.tanh(mean.to(noise.dtype)), log_std.to(noise.dtype), noise)

    def log_prob(self, observations: Observations, actions: th.Tensor) -> th.Tensor:
        mean, log_std, _ = self.policy.actor.get_action_dist_params(self.normalize(observations))
        return gaussian_log_prob(th.tanh(mean.to(actions.dtype)), log_std.to(actions.dtype), actions)


class TD3Networks(ActorCriticNetworks):
    """With a deterministic actor and its target."""

    def act(self, observations: Observations, noise: th.Tensor) -> th.Tensor:
        return self.action(observations).expand_as(noise)

    def action(self, observations: Observations) -> th.Tensor:
        """mu(s), (B, 1, action_dim)."""
        return self.policy.actor(self.normalize(observations)).float().unsqueeze(1)

    def target_action(self, observations: Observations) -> th.Tensor:
        """mu'(s), (B, 1, action_dim)."""
        return self.policy.actor_target(self.normalize(observations)).float().unsqueeze(1)


def identity(observations: Observations) -> Observations:
    """No normalisation."""
    return observations


def vec_normalizer(env: VecNormalize | None, device: th.device) -> Normalizer:
    """``VecNormalize.normalize_obs`` on the device, with its present statistics."""
    if env is None or not env.norm_obs:
        return identity
    statistics = cast(RunningMeanStd, env.obs_rms)  # a dict only for Dict observations, with which it is refused
    return normalizer_of(
        {"mean": statistics.mean, "var": statistics.var, "epsilon": env.epsilon, "clip_obs": env.clip_obs}, device
    )


def normalizer_of(state: Mapping[str, Any], device: th.device) -> Normalizer:
    """The same from statistics as a model's file keeps them (:func:`sb3_offline.buffers.statistics.statistics_of`)."""
    mean = th.as_tensor(state["mean"], dtype=th.float32, device=device)
    std = th.sqrt(th.as_tensor(state["var"], dtype=th.float32, device=device) + state["epsilon"])
    clip = state["clip_obs"]
    return lambda observations: th.clamp((observations - mean) / std, -clip, clip)
