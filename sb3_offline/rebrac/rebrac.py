"""ReBRAC (Tarasov et al. 2023, arXiv 2305.09836): TD3+BC whose actor and critics are held to the data apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_offline.arguments import NOT_NEGATIVE, check_number
from sb3_offline.common.actor_critic import MODEL_FREE_RECIPE
from sb3_offline.common.offline_td3 import OfflineTD3, TD3Noise
from sb3_offline.execution import ranks
from sb3_offline.networks.networks import Batch, Logs, TD3Networks


class ReBRAC(OfflineTD3):
    """
    TD3 whose actor pays for its distance from the logged action, and whose target pays for the distance of the next action
    from the logged one. Its critics descend (Q - y)^2 without the 1/2 of most algorithms here, as the authors' do, and have
    LayerNorm.

    The defaults are the recipe of :class:`~sb3_offline.TD3BC` beside ReBRAC's own losses: targets that follow four times as
    fast, rates that fall to 0 in the second half of ``learn``, an average of the actor's weights; networks and batches are
    those of SB3. The paper's settings are the locomotion entries of ``zoo_configs/rebrac.yml``. Observations are standardised
    by the data, as in TD3BC.

    :param actor_beta: beta_1, of the actor's squared distance (a sum over dimensions), beside Q / mean \\|Q\\|. None takes
        0.05 in three dimensions of actions, as published for hopper medium-replay, and in d of them 0.15 / d.
    :param critic_beta: beta_2, of the next action's, in units of Q. 0 leaves TD3's target.
    """

    td_weight: ClassVar[float] = 1.0
    standardizes: ClassVar[bool] = True
    uses_next_actions: ClassVar[bool] = True
    default_policy_kwargs: ClassVar[Mapping[str, Any]] = {"layer_norm": True}
    recipe: ClassVar = MODEL_FREE_RECIPE
    actor_beta: Any  # a number, once the actions' dimensions are known

    def __init__(
        self,
        *args: Any,
        actor_beta: float | None = None,
        critic_beta: float = 0.01,
        **kwargs: Any,
    ):
        self.actor_beta = None if actor_beta is None else check_number("actor_beta", actor_beta, NOT_NEGATIVE)
        self.critic_beta = check_number("critic_beta", critic_beta, NOT_NEGATIVE)
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.actor_beta is None:
            self.actor_beta = 0.05 * 3 / get_action_dim(self.action_space)

    @th.no_grad()
    def td_target(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> th.Tensor:
        """
        y = r + gamma (1 - done) (min_j Q'_j(s', a') - beta_2 (a' - a'_data)^2), a'_data logged at s': (B,) (Eq 4). Where
        nothing was logged there, or diagnostics ask for rows without it, nothing is paid.
        """
        actions = self.smoothed_action(nets, batch, noise)
        value = nets.q_target(batch.next_observations, actions).amin(dim=0).squeeze(-1)
        if batch.next_actions is not None and batch.has_next is not None:
            distance = (actions.squeeze(1) - batch.next_actions).square().sum(dim=-1)
            value = value - self.critic_beta * distance * batch.has_next
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def actor_loss(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> tuple[th.Tensor, Logs]:
        """-lambda E min_j Q_j(s, mu(s)) + beta_1 E (mu(s) - a)^2 (Eq 3), lambda = 1 / mean \\|Q\\| without a gradient."""
        actions = nets.action(batch.observations)  # (B, 1, action_dim)
        q = nets.q_frozen(batch.observations, actions).amin(dim=0)
        weight = 1.0 / ranks.batch_mean(q.abs())
        imitation = (actions.squeeze(1) - batch.actions).square().sum(dim=-1).mean()
        loss = -weight * q.mean() + self.actor_beta * imitation
        return loss, {"actor_loss": loss, "imitation_loss": imitation, "q_weight": weight}
