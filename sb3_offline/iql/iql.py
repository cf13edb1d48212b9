"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): no action that was not logged is ever valued."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule

from sb3_offline.arguments import INSIDE_UNIT, NOT_NEGATIVE, POSITIVE, check_number
from sb3_offline.common.actor_critic import OfflineActorCritic
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call
from sb3_offline.iql.policies import VALUE_POLICIES, ValueNetworks, ValuePolicy
from sb3_offline.networks.networks import Batch, Logs
from sb3_offline.training.schedules import CosineSchedule

ACTOR_RATE = CosineSchedule(3e-4)


def expectile_loss(u: th.Tensor, expectile: float) -> th.Tensor:
    """L_tau(u) = \\|tau - 1(u < 0)\\| u^2 (Eq 5), elementwise."""
    return (expectile - (u < 0).to(u.dtype)).abs() * u.square()


class IQL(OfflineActorCritic):
    """
    V(s) is an expectile of Q over the logged actions, Q's target is r + gamma V(s'), and the actor is a weighted imitation.
    The critics descend (Q - y)^2 without the 1/2 of most algorithms here, as the paper's do.

    :param learning_rate: Of the actor: a cosine to 0 over ``learn``, as in the paper.
    :param qf_learning_rate: Of the critics, and of V.
    :param expectile: tau of the paper, in (0, 1): 0.5 values the policy of the data, near 1 the best logged action.
    :param beta: Inverse temperature of the actor's weights exp(beta A); 0 clones the data.
    :param max_weight: What these weights are clipped at.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = VALUE_POLICIES
    td_weight: ClassVar[float] = 1.0
    value_net: Any

    def __init__(
        self,
        *args: Any,
        learning_rate: float | Schedule = ACTOR_RATE,
        expectile: float = 0.7,
        beta: float = 3.0,
        max_weight: float = 100.0,
        **kwargs: Any,
    ):
        self.expectile = check_number("expectile", expectile, INSIDE_UNIT)
        self.beta = check_number("beta", beta, NOT_NEGATIVE)
        self.max_weight = check_number("max_weight", max_weight, POSITIVE)
        super().__init__(*args, learning_rate=learning_rate, **kwargs)

    def _setup_model(self) -> None:
        if not issubclass(self.policy_class, ValuePolicy):
            raise ValueError(f"IQL's policy has a value_net: {self.policy_class.__name__} must be a child of ValuePolicy.")
        super()._setup_model()
        policy: Any = self.policy
        optimizer = policy.value_net.optimizer
        self.register_state("value_net", policy.value_net, optimizer=optimizer, rate="qf_learning_rate", saved=False)

    def networks(self) -> ValueNetworks:
        """The view of the networks that the losses get."""
        return ValueNetworks(self.policy, self.normalizer)

    # --- the losses: pure functions of (networks, batch) ---

    def value_loss(self, nets: ValueNetworks, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """E L_tau(min_j Q'_j(s, a) - V(s)) (Eq 5)."""
        with th.no_grad():
            q = self.logged_value(nets, batch)
        value = nets.value(batch.observations)
        loss = expectile_loss(q - value, self.expectile).mean()
        return loss, {"value_loss": loss, "value": value.mean()}

    @th.no_grad()
    def td_target(self, nets: ValueNetworks, batch: Batch, noise: None) -> th.Tensor:
        """y = r + gamma (1 - done) V(s') (Eq 6): (B,)."""
        return batch.rewards + self.gamma * (1.0 - batch.dones) * nets.value(batch.next_observations)

    def actor_loss(self, nets: ValueNetworks, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """-E min(exp(beta A), max_weight) log pi(a|s), A = min_j Q'_j(s, a) - V(s) (Eq 7)."""
        with th.no_grad():
            advantage = self.logged_value(nets, batch) - nets.value(batch.observations)
            weight = (self.beta * advantage).exp().clamp(max=self.max_weight)
        log_prob = nets.log_prob(batch.observations, batch.actions.unsqueeze(1)).squeeze(-1)
        loss = -(weight * log_prob).mean()
        return loss, {"actor_loss": loss, "advantage": advantage.mean(), "actor_weight": weight.mean()}

    def logged_value(self, nets: ValueNetworks, batch: Batch) -> th.Tensor:
        """min_j Q'_j(s, a) of the batch's own actions, (B,)."""
        return nets.q_target(batch.observations, batch.actions.unsqueeze(1)).amin(dim=0).squeeze(-1)

    # --- one update ---

    def critic_step(self, nets: ValueNetworks, batch: Batch, noise: None, call: Call) -> Logs:
        """V, then the critics towards it."""
        loss, logs = call(self.value_loss, nets, batch, noise)
        minimize(loss, self.value_net.optimizer)
        return {**logs, **super().critic_step(nets, batch, noise, call)}
