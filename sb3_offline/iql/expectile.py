"""Expectile learning, whatever the actions are: V, the critics towards it, and an actor that imitates by advantage."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_offline.arguments import INSIDE_UNIT, NOT_NEGATIVE, POSITIVE, check_number
from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.execution.optimizers import minimize
from sb3_offline.execution.updates import Call
from sb3_offline.networks.networks import Batch, Logs
from sb3_offline.training.schedules import CosineSchedule


def expectile_loss(u: th.Tensor, expectile: float) -> th.Tensor:
    """L_tau(u) = \\|tau - 1(u < 0)\\| u^2 (Eq 5), elementwise."""
    return (expectile - (u < 0).to(u.dtype)).abs() * u.square()


class ExpectileLearning(GradientAlgorithm):
    """
    V(s) is an expectile of Q over the logged actions, Q's target is r + gamma V(s'), and the actor is a weighted imitation.
    The critics descend (Q - y)^2 without the 1/2 of most algorithms here, as the paper's do.

    :param learning_rate: Of the actor; in the paper a cosine to 0 over ``learn``.
    :param qf_learning_rate: Of the critics, and of V.
    :param expectile: tau of the paper, in (0, 1): 0.5 values the policy of the data, near 1 the best logged action.
    :param beta: Inverse temperature of the actor's weights exp(beta A); 0 clones the data.
    :param max_weight: What these weights are clipped at.
    """

    recipe: ClassVar = {"learning_rate": CosineSchedule(3e-4)}
    td_weight: ClassVar[float] = 1.0
    value_net: Any

    def __init__(
        self,
        *args: Any,
        qf_learning_rate: float | Schedule = 3e-4,
        expectile: float = 0.7,
        beta: float = 3.0,
        max_weight: float = 100.0,
        **kwargs: Any,
    ):
        self.expectile = check_number("expectile", expectile, INSIDE_UNIT)
        self.beta = check_number("beta", beta, NOT_NEGATIVE)
        self.max_weight = check_number("max_weight", max_weight, POSITIVE)
        super().__init__(*args, qf_learning_rate=qf_learning_rate, **kwargs)

    def _setup_model(self) -> None:
        if not hasattr(self.policy_class, "make_value_net"):
            name = type(self).__name__
            raise ValueError(
                f"{name}'s policy has a value_net: {self.policy_class.__name__} must be a child of "
                f"{self.policy_aliases['MlpPolicy'].__name__}."
            )
        super()._setup_model()
        value_net: Any = self.policy.value_net
        optimizer = value_net.optimizer
        self.register_state("value_net", value_net, optimizer=optimizer, rate="qf_learning_rate", saved=False)

    # --- the losses: pure functions of (networks, batch) ---

    def value_loss(self, nets: Any, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """E L_tau(min_j Q'_j(s, a) - V(s)) (Eq 5)."""
        with th.no_grad():
            q = self.logged_value(nets, batch)
        value = nets.value(batch.observations)
        loss = expectile_loss(q - value, self.expectile).mean()
        return loss, {"value_loss": loss, "value": value.mean()}

    @th.no_grad()
    def td_target(self, nets: Any, batch: Batch, noise: None = None) -> th.Tensor:
        """y = r + gamma (1 - done) V(s') (Eq 6): (B,)."""
        return batch.rewards + self.gamma * (1.0 - batch.dones) * nets.value(batch.next_observations)

    def actor_loss(self, nets: Any, batch: Batch, noise: None) -> tuple[th.Tensor, Logs]:
        """-E min(exp(beta A), max_weight) log pi(a|s), A = min_j Q'_j(s, a) - V(s) (Eq 7)."""
        with th.no_grad():
            advantage = self.logged_value(nets, batch) - nets.value(batch.observations)
            weight = (self.beta * advantage).exp().clamp(max=self.max_weight)
        loss = -(weight * self.logged_log_prob(nets, batch)).mean()
        return loss, {"actor_loss": loss, "advantage": advantage.mean(), "actor_weight": weight.mean()}

    def logged_value(self, nets: Any, batch: Batch) -> th.Tensor:
        """min_j Q'_j(s, a) of the batch's own actions, (B,)."""
        raise NotImplementedError

    def logged_log_prob(self, nets: Any, batch: Batch) -> th.Tensor:
        """log pi(a|s) of the batch's own actions, (B,)."""
        raise NotImplementedError

    def value_of_next(self, nets: Any, observations: Any, noise: th.Tensor) -> th.Tensor:
        """V, as of held-out rows, too."""
        return nets.value(observations)

    # --- one update ---

    def critic_step(self, nets: Any, batch: Batch, noise: None, call: Call) -> Logs:
        """V, then the critics towards it."""
        loss, logs = call(self.value_loss, nets, batch, noise)
        minimize(loss, self.value_net.optimizer)
        return {**logs, **super().critic_step(nets, batch, noise, call)}
