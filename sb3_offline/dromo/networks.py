"""What DROMO's loss may ask for beyond SAC's networks, and the noise that it draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch as th
from stable_baselines3.sac.policies import Actor

from sb3_offline.behavior.behavior_policy import BehaviorNoise
from sb3_offline.cql.cql import CQLNoise
from sb3_offline.dromo.particles import ParticleActor
from sb3_offline.networks.networks import SACNetworks, squashed_gaussian

if TYPE_CHECKING:
    from sb3_offline.dromo.dromo import DROMO


@dataclass(frozen=True)
class DROMONoise(CQLNoise):
    """Also the actions of the robust term, at all B states: of pi_beta, and normals (B, N, action_dim) for pi."""

    behavior: BehaviorNoise
    robust_policy: th.Tensor


class DROMONetworks(SACNetworks):
    """The policy's networks, the behaviour policy, n(s), and the unit of length of observations (obs,)."""

    def __init__(self, model: DROMO):
        super().__init__(model.policy, model.normalizer)
        self.behavior_policy = model.behavior_policy
        self.visits = model.visitation
        self.observation_scale = model.observation_scale

    def sample_actor(self, actor: Actor, observations: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        if isinstance(actor, ParticleActor):  # the policy is their mixture
            return squashed_gaussian(*actor.mixture(self.normalize(observations)), noise)
        return super().sample_actor(actor, observations, noise)

    def sample_behavior(self, observations: th.Tensor, noise: BehaviorNoise) -> th.Tensor:
        """Actions (B, N, action_dim) of pi_beta."""
        return self.behavior_policy.sample_from_noise(observations, noise)
