"""Several actors in one: SVPG's particles."""

from __future__ import annotations

from typing import Any, cast

import torch as th
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_offline.networks.policies import OfflineSACPolicy


class ParticleActor(Actor):
    """
    An SB3 SAC actor that is the first of n particles and holds the others: who knows nothing of them, such as ``predict``,
    asks the first.
    """

    def __init__(self, n_particles: int, kwargs: list[dict[str, Any]]):
        super().__init__(**kwargs[0])
        self.others = nn.ModuleList(Actor(**own) for own in kwargs[1:n_particles])

    def mixture(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean and log std (B, action_dim) by particle i mod n at row i: a batch is spread evenly over the particles."""
        particles = [self, *cast("list[Actor]", list(self.others))]
        n = len(particles)
        means, log_stds, _ = zip(
            *(one.get_action_dist_params(observations[i::n]) for i, one in enumerate(particles)), strict=True
        )
        own = th.arange(len(observations), device=observations.device) % n
        order = own.argsort(stable=True).argsort()
        return th.cat(means)[order], th.cat(log_stds)[order]

    def everyone(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean and log std of every particle at every state: (B, n, action_dim) each."""
        particles = [self, *cast("list[Actor]", list(self.others))]
        means, log_stds, _ = zip(*(one.get_action_dist_params(observations) for one in particles), strict=True)
        return th.stack(means, dim=1), th.stack(log_stds, dim=1)

    def particle_parameters(self) -> list[list[nn.Parameter]]:
        """Each particle's parameters, in one order."""
        own = [parameter for name, parameter in self.named_parameters() if not name.startswith("others.")]
        return [own, *(list(other.parameters()) for other in self.others)]


def with_particles(policy: SACPolicy, n_particles: int) -> ParticleActor:
    """
    A policy's actor with n - 1 more beside it, drawn anew, and an optimiser of all of them.

    :raises ValueError: if the policy shares the actor's features with its critics.
    """
    if policy.share_features_extractor:
        raise ValueError("actor_regularizer='svpg' needs share_features_extractor=False: each particle has its own.")
    kwargs = [policy._update_features_extractor(policy.actor_kwargs) for _ in range(n_particles)]
    actor = ParticleActor(n_particles, kwargs).to(policy.device)
    if isinstance(policy, OfflineSACPolicy):
        for other in actor.others:
            policy.init_actor(cast(Actor, other))
    actor.load_state_dict(policy.actor.state_dict(), strict=False)  # the first is the actor that was there
    rate = policy.actor.optimizer.param_groups[0]["lr"]
    actor.optimizer = policy.optimizer_class(actor.parameters(), lr=rate, **policy.optimizer_kwargs)  # type: ignore[call-arg]
    return actor
