"""Model-based DQN: the greedy policy of the Q-network, or of its target, acts in rollouts."""

from __future__ import annotations

from collections.abc import Callable

import torch as th

from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.common.offline_dqn import OfflineDQN, one_hot


class ModelBasedDQN(ModelBasedAlgorithm, OfflineDQN):
    """An :class:`OfflineDQN` whose batches mix data with rollouts. The model of the world takes actions one-hot."""

    def rollout_actor(self, generator: th.Generator) -> Callable[[th.Tensor], th.Tensor]:
        """Who acts in rollouts: observations (B, ...) -> one-hot actions (B, n_actions)."""
        nets, n_actions = self.networks(), int(self.action_space.n)

        def act(observations: th.Tensor) -> th.Tensor:
            if self.rollout_policy == "uniform":
                chosen = th.randint(n_actions, (len(observations),), generator=generator, device=self.device)
            else:
                value = nets.q_target if self.rollout_policy == "target" else nets.q
                chosen = nets.greedy(value(observations)[0], observations)
            return one_hot(chosen, n_actions)

        return act

    def logged_form(self, actions: th.Tensor) -> th.Tensor:
        return actions.argmax(dim=1, keepdim=True)
