"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): no action that was not logged is ever valued."""

from __future__ import annotations

from typing import ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_offline.common.actor_critic import MODEL_FREE_RECIPE, OfflineActorCritic
from sb3_offline.iql.expectile import ExpectileLearning
from sb3_offline.iql.policies import VALUE_POLICIES, ValueNetworks
from sb3_offline.networks.networks import Batch


class IQL(ExpectileLearning, OfflineActorCritic):
    """
    Implicit Q-learning: :class:`~sb3_offline.iql.expectile.ExpectileLearning` with twin critics and a Gaussian actor whose
    standard deviation is one for all states.

    The defaults are the recipe that was found on hopper and halfcheetah medium-replay (see the benchmarks' page): rewards
    scaled to a root mean square of 1 and softer weights, beta = 0.5, as most are clipped at the paper's 3; critics with
    LayerNorm, targets that follow four times as fast, rates that fall to 0 in the second half of ``learn``, and an average of
    the actor's weights. The paper's settings are the locomotion entries of ``zoo_configs/iql.yml``.
    """

    default_policy_kwargs: ClassVar = {"layer_norm": True}
    recipe: ClassVar = {**MODEL_FREE_RECIPE, "reward_scale": "auto", "beta": 0.5}
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = VALUE_POLICIES

    def networks(self) -> ValueNetworks:
        """The view of the networks that the losses get."""
        return ValueNetworks(self.policy, self.normalizer)

    def logged_value(self, nets: ValueNetworks, batch: Batch) -> th.Tensor:
        return nets.q_target(batch.observations, batch.actions.unsqueeze(1)).amin(dim=0).squeeze(-1)

    def logged_log_prob(self, nets: ValueNetworks, batch: Batch) -> th.Tensor:
        return nets.log_prob(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
