"""Implicit Q-learning for discrete actions (Kostrikov et al. 2021, arXiv 2110.06169)."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_offline.common.offline_dqn import OfflineDQN
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call
from sb3_offline.iql.discrete_policies import DISCRETE_VALUE_POLICIES, DiscreteValueNetworks
from sb3_offline.iql.expectile import ExpectileLearning
from sb3_offline.networks.choices import renormalized
from sb3_offline.networks.networks import Batch, Logs


class DiscreteIQL(ExpectileLearning, OfflineDQN):
    """
    Implicit Q-learning: :class:`~sb3_offline.iql.expectile.ExpectileLearning` with twin Q-networks, a head for each action,
    and a categorical actor. ``predict`` takes the actor's most likely action, or samples.

    :param support_threshold: Act greedily in min_j Q_j instead, among the actions that the data support: the actor is then
        trained as a clone, and actions less likely than this share of its likeliest one are not chosen (BCQ's rule).
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = DISCRETE_VALUE_POLICIES
    rates = ("learning_rate", "qf_learning_rate")
    critic_rate = "qf_learning_rate"
    actor: Any

    def _setup_model(self) -> None:
        super()._setup_model()
        actor: Any = self.policy.actor
        self.register_state("actor", actor, optimizer=actor.optimizer, rate="learning_rate", saved=False)

    def networks(self) -> DiscreteValueNetworks:
        """The view of the networks that the losses get."""
        return DiscreteValueNetworks(self.policy, self.normalizer)

    def logged_value(self, nets: DiscreteValueNetworks, batch: Batch) -> th.Tensor:
        return nets.q_target(batch.observations).amin(dim=0).gather(1, batch.actions).squeeze(1)

    def logged_log_prob(self, nets: DiscreteValueNetworks, batch: Batch) -> th.Tensor:
        return renormalized(nets.log_policy(batch.observations), batch.masks).gather(1, batch.actions).squeeze(1)

    def critic_step(self, nets: DiscreteValueNetworks, batch: Batch, noise: None, call: Call) -> Logs:
        """V, the critics towards it, and the actor by their advantage, or as a clone."""
        logs = super().critic_step(nets, batch, noise, call)
        loss, more = call(self.actor_loss, nets, batch, noise)
        minimize(loss, self.actor.optimizer)
        return {**logs, **more}

    def actor_loss(self, nets: DiscreteValueNetworks, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """As the parent's (Eq 7); with a ``support_threshold`` -E log pi(a|s)."""
        if self.support_threshold is None:
            return super().actor_loss(nets, batch, noise)
        loss = -self.logged_log_prob(nets, batch).mean()
        return loss, {"actor_loss": loss}

    def learn_online(self, *_: Any, **__: Any) -> NoReturn:
        """
        Not for discrete actions.

        :raises NotImplementedError: saying what to do instead.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no learn_online. Collect with its policy (`sb3-offline collect`), and learn from "
            "both: dataset=[old, new]."
        )
