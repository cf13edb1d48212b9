"""Conservative Q-Learning for discrete actions: CQL(H) on DQN (Kumar et al. 2020, arXiv 2006.04779)."""

from __future__ import annotations

from typing import Any

from sb3_offline.common.offline_dqn import OfflineDQN
from sb3_offline.common.terms import Term
from sb3_offline.cql.conservative import SUPERSEDED, Conservatism, ExactConservative, TargetGap, check_conservatism


class DiscreteCQL(OfflineDQN):
    """
    Double DQN whose Q-network is pushed down on all actions and up on the data's:
    alpha (log sum_a exp Q(s, a) - E_D Q) beside 1/2 (Q - y)^2 (CQL, Eq 4). The sum is exact, so a published ``target_gap``
    holds as it is.

    :param conservative_weight: alpha, 2.5 if neither it nor ``target_gap`` is given; half of a published weight.
    :param target_gap: Learn the weight by dual descent so that the gap stays below this (CQL, Eq 30), or "auto":
        so that E_pi Q - E_D Q stays below a tenth of the standard deviation of Q over the data.
    :param conservative: "logsumexp" is CQL(H); "expectation" takes the greedy action's Q instead of a soft maximum (Eq 2).
    """

    superseded = SUPERSEDED

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: TargetGap = None,
        conservative: Conservatism = "logsumexp",
        **kwargs: Any,
    ):
        check_conservatism(self, ExactConservative, conservative_weight, target_gap, conservative, default=2.5)
        super().__init__(*args, **kwargs)

    def make_terms(self) -> list[Term]:
        return [ExactConservative(self)]
