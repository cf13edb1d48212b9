"""BCQ's rule for discrete actions (Fujimoto et al. 2019, arXiv 1910.01708): greedy among the actions that the data support."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_offline.networks.aliases import by_alias
from sb3_offline.networks.choice_policies import ChoiceCnnPolicy, ChoiceMultiInputPolicy, ChoicePolicy
from sb3_offline.networks.choices import masked
from sb3_offline.networks.clones import CategoricalActor
from sb3_offline.networks.policies import add_optimizer


def supported(log_behavior: th.Tensor, threshold: float) -> th.Tensor:
    """Which actions are at least ``threshold`` times as likely as the likeliest: log pi_beta (B, n_actions) -> bool."""
    return log_behavior >= log_behavior.amax(dim=1, keepdim=True) + math.log(threshold)


def greedy_supported(q: th.Tensor, log_behavior: th.Tensor, threshold: float) -> th.Tensor:
    """The action of the largest Q among the supported ones: (B, n_actions) each -> (B,)."""
    return masked(q, supported(log_behavior, threshold)).argmax(dim=1)


class SupportPolicy(ChoicePolicy):
    """
    A ``ChoicePolicy`` beside an estimate of pi_beta, which acts by :func:`greedy_supported`.

    :param support_threshold: How likely an action must be, as a share of the likeliest one's probability.
    """

    def __init__(self, *args: Any, support_threshold: float = 0.3, **kwargs: Any):
        self.support_threshold = support_threshold
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.behavior = CategoricalActor(**self._update_features_extractor(self.net_args, None)).to(self.device)
        add_optimizer(self.behavior, self, lr_schedule)

    def scores(self, obs: PyTorchObs, allowed: th.Tensor | None) -> th.Tensor:
        return masked(self.q_net(obs), supported(masked(self.behavior(obs), allowed), self.support_threshold))

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3."""
        super().set_training_mode(mode)
        self.behavior.set_training_mode(mode)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"support_threshold": self.support_threshold}


_, SupportCnnPolicy, SupportMultiInputPolicy = by_alias(SupportPolicy).values()
SUPPORT_POLICIES: dict[type[BasePolicy], type[BasePolicy]] = {
    ChoicePolicy: SupportPolicy,
    ChoiceCnnPolicy: SupportCnnPolicy,
    ChoiceMultiInputPolicy: SupportMultiInputPolicy,
}
