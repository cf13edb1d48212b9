"""Model-based SAC: the actor, or its Polyak copy, acts in rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch as th
from stable_baselines3.sac.policies import Actor

from sb3_offline.buffers.buffers import unscale_actions
from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.common.offline_sac import OfflineSAC
from sb3_offline.common.parts import frozen_copy
from sb3_offline.training.schedules import HoldThenDecay

BootstrapPolicy = Literal["current", "target"]

#: What the recipes of MOPO and MOBILE share, found on hopper and halfcheetah medium-replay: rollouts so long that the policy
#: meets the states that it leads to, rewards of unit size, a small temperature, rates that fall to 0 in the second half of
#: ``learn``, and an average of the actor's weights.
PENALIZED_RECIPE: Mapping[str, Any] = {
    "learning_rate": HoldThenDecay(1e-4),
    "qf_learning_rate": HoldThenDecay(3e-4),
    "tau": 0.01,
    "averaging_rate": 0.001,
    "ent_coef": 0.007,
    "reward_scale": "auto",
    "rollout_length": 25,
    "rollout_freq": 250,
    "rollout_batch_size": 1000,
}


class ModelBasedSAC(ModelBasedAlgorithm, OfflineSAC):
    """An :class:`OfflineSAC` whose batches mix data with rollouts."""

    actor_target: Actor
    bootstrap_policy: BootstrapPolicy = "current"  # who chooses the a' of the critics' target, where a child asks

    def _setup_model(self) -> None:
        super()._setup_model()
        if "target" in (self.rollout_policy, self.bootstrap_policy):
            # kept in the policy, so that it is saved, loaded and moved with it
            self.policy.actor_target = frozen_copy(self.policy.actor)
            self.register_state("actor", self.policy.actor, target=self.policy.actor_target, saved=False)  # type: ignore[arg-type]

    def rollout_actor(self, generator: th.Generator) -> Callable[[th.Tensor], th.Tensor]:
        """Who acts in rollouts: observations (B, ...) -> actions (B, action_dim) in environment units."""
        nets, (low, high) = self.networks(), self._action_bounds

        def act(observations: th.Tensor) -> th.Tensor:
            shape = (len(observations), 1, len(low))
            if self.rollout_policy == "uniform":
                scaled = 2.0 * th.rand(shape, generator=generator, device=self.device) - 1.0
            else:
                actor = self.actor_target if self.rollout_policy == "target" else self.actor
                noise = th.randn(shape, generator=generator, device=self.device)
                scaled, _ = nets.sample_actor(actor, observations, noise)
            return unscale_actions(scaled.squeeze(1), low, high)

        return act

    def logged_form(self, actions: th.Tensor) -> th.Tensor:
        low, high = self._action_bounds
        return (2.0 * (actions - low) / (high - low) - 1.0).clamp(-1.0, 1.0)
