"""DROMO for discrete actions, on DQN (Liu, Chen, Zhong): the sums over actions are exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, check_flag, check_number
from sb3_offline.behavior.discrete_behavior_policy import DiscreteBehaviorPolicy
from sb3_offline.behavior.visits import VisitationCounts
from sb3_offline.combo.discrete_combo import DiscreteCOMBO
from sb3_offline.common.offline_dqn import DQNNetworks
from sb3_offline.common.terms import Term
from sb3_offline.dromo.options import Visitation, read_visits, refuse_old_spelling, split_behavior_kwargs, warn_if_unused
from sb3_offline.dromo.robust_term import ExactRobustTerm
from sb3_offline.networks.choices import renormalized


class DiscreteDROMONetworks(DQNNetworks):
    """The policy's networks, the behaviour policy and n(s)."""

    def __init__(self, model: DiscreteDROMO):
        super().__init__(model.policy, model.normalizer)
        self.behavior_policy = model.behavior_policy
        self.visits = model.visitation

    @th.no_grad()
    def behavior(self, observations: th.Tensor, masks: th.Tensor | None = None) -> th.Tensor:
        """pi_beta(a|s), (B, n_actions), among the actions that ``masks`` (likewise) allow."""
        return renormalized(self.behavior_policy(observations), masks).exp()


class DiscreteDROMO(DiscreteCOMBO):
    """
    :class:`DiscreteCOMBO` whose Q also pays for its spread across actions: alpha sqrt(Var_{pi^f}(Q(s, .)) / n(s)), with
    pi^f = f pi_beta + (1 - f) pi (DROMO, Eq 13) and pi greedy, or for its variance over all of d_f (``strict``, Eq 17).
    The term is a variance regulariser, not a pointwise lower bound.

    :param robust_weight: alpha; 0 is COMBO. n(s) is rescaled so that alpha n^{-1/2}, the weight on the spread, is alpha on
        average over the data; over d_f, where rollouts visit rarer states, it is more.
    :param strict: Eq 17, the standard deviation of Q over the batch of d_f, instead of Eq 13.
    :param visitation: How n(s) is counted: "knn" (default), "simhash", "constant", or "exact" for one-hot states; or
        :class:`~sb3_offline.dromo.options.Visits`, which can leave n(s) = \\|D\\| d(s) as the paper writes it.
    :param rollout_policy: As in :class:`DiscreteCOMBO`; the paper's Algorithm 1 rolls out the target policy.
    :param behavior_kwargs: Of pi_beta: ``hidden_sizes``; of its fit: ``n_steps``, ``batch_size``.
    """

    recipe: ClassVar = {"rollout_policy": "target"}

    def __init__(
        self,
        *args: Any,
        robust_weight: float = 0.1,
        strict: bool = False,
        visitation: Visitation | None = None,
        behavior_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.robust_weight = check_number("robust_weight", robust_weight, NOT_NEGATIVE)
        self.strict = check_flag("strict", strict)
        warn_if_unused(behavior_kwargs, robust_weight)
        visits = read_visits(visitation, strict)
        self.visitation_mode, self.count_scale = visits.mode, visits.count_scale
        split_behavior_kwargs(behavior_kwargs, ("hidden_sizes",))  # refuses bad options now
        self.behavior_kwargs = dict(behavior_kwargs or {})
        super().__init__(*args, **kwargs)

    behavior_policy: DiscreteBehaviorPolicy
    visitation: VisitationCounts

    @classmethod
    def check_arguments(cls, kwargs: Mapping[str, Any]) -> None:
        """Also say how the options of version 0.1.0 are written now."""
        refuse_old_spelling(cls.__name__, kwargs)
        super().check_arguments(kwargs)

    def make_terms(self) -> list[Term]:
        return [*super().make_terms(), ExactRobustTerm(self)]

    def networks(self) -> DiscreteDROMONetworks:
        return DiscreteDROMONetworks(self)
