"""Several actors in one: SVPG's particles."""

from __future__ import annotations

from typing import Any, cast

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn


class ParticleActor(Actor):
    """
    An SB3 SAC actor that is the first of n particles and holds the others.

    Where a distribution is asked for (losses, targets, rollouts), row i of the batch goes to particle i mod n: a batch is
    stratified evenly over the mixture. Where an action is asked for (``predict``), the first particle gives it.
    """

    def __init__(self, n_particles: int, kwargs: list[dict[str, Any]]):
        super().__init__(**kwargs[0])
        self.others = nn.ModuleList(Actor(**own) for own in kwargs[1:n_particles])

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        assert isinstance(obs, th.Tensor)
        n = 1 + len(self.others)
        hands = [obs[i::n] for i in range(n)]
        others = cast("list[Actor]", list(self.others))
        dealt = [super().get_action_dist_params, *(other.get_action_dist_params for other in others)]
        means, log_stds, _ = zip(*(ask(rows) for ask, rows in zip(dealt, hands, strict=True)), strict=True)
        order = th.cat([th.arange(i, len(obs), n, device=obs.device) for i in range(n)]).argsort()
        return th.cat(means)[order], th.cat(log_stds)[order], {}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        mean, log_std, _ = super().get_action_dist_params(obs)
        return self.action_dist.actions_from_params(mean, log_std, deterministic=deterministic)  # type: ignore[call-arg]

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
    actor.load_state_dict(policy.actor.state_dict(), strict=False)  # the first is the actor that was there
    rate = policy.actor.optimizer.param_groups[0]["lr"]
    actor.optimizer = policy.optimizer_class(actor.parameters(), lr=rate, **policy.optimizer_kwargs)  # type: ignore[call-arg]
    return actor
