"""What DROMO's loss may ask for beyond SAC's networks."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.sac.policies import Actor

from sb3_offline.behavior.behavior_policy import BehaviorNoise, BehaviorPolicy
from sb3_offline.behavior.visits import VisitationCounts
from sb3_offline.dromo.particles import ParticleActor
from sb3_offline.networks.networks import Normalizer, SACNetworks, squashed_gaussian


class DROMONetworks(SACNetworks):
    """
    The policy's networks, and what the robust term asks beside them.

    :param behavior_policy: pi_beta.
    :param visits: n(s): observations (B, obs) -> (B,).
    :param observation_scale: The unit of length of observations, (obs,).
    """

    def __init__(
        self,
        policy: BasePolicy,
        normalize: Normalizer,
        behavior_policy: BehaviorPolicy,
        visits: VisitationCounts,
        observation_scale: th.Tensor,
    ):
        super().__init__(policy, normalize)
        self.behavior_policy, self.visits, self.observation_scale = behavior_policy, visits, observation_scale

    def sample_actor(self, actor: Actor, observations: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        if isinstance(actor, ParticleActor):  # the policy is their mixture
            return squashed_gaussian(*actor.mixture(self.normalize(observations)), noise)
        return super().sample_actor(actor, observations, noise)

    def sample_particles(self, observations: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """Actions (B, N, action_dim) of the particles' mixture, stratified: the i-th of each state by particle i mod n."""
        mean, log_std = self.policy.actor.everyone(self.normalize(observations))
        own = th.arange(noise.shape[1], device=noise.device) % mean.shape[1]
        return th.tanh(mean[:, own].to(noise.dtype) + log_std[:, own].to(noise.dtype).exp() * noise)

    def sample_behavior(self, observations: th.Tensor, noise: BehaviorNoise) -> th.Tensor:
        """Actions (B, N, action_dim) of pi_beta."""
        return self.behavior_policy.sample_from_noise(observations, noise)
