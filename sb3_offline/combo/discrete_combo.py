"""COMBO for discrete actions, on DQN (Yu et al. 2021, arXiv 2102.08363)."""

from __future__ import annotations

from typing import Any, ClassVar

from sb3_offline.combo.combo import COMBO
from sb3_offline.common.model_based_dqn import ModelBasedDQN
from sb3_offline.cql.conservative import Conservatism
from sb3_offline.cql.discrete_cql import DiscreteCQL
from sb3_offline.networks.networks import Batch


class DiscreteCOMBO(ModelBasedDQN, DiscreteCQL):
    """
    :class:`DiscreteCQL` whose pessimism falls on what the model imagines: beta (E_rho Q - E_D Q) beside 1/2 E_{d_f}(Q - y)^2
    (Eq 8 of the DROMO paper, Eq 2 of COMBO). rho is the model buffer's states with the greedy policy's action.

    :param conservative_weight: beta, 0.5 if neither it nor ``target_gap`` is given; half of a published weight.
    :param conservative: "expectation" is Eq 8 as it stands; "logsumexp" is COMBO's practical variant, here exact.
    """

    weight_bounds: ClassVar[tuple[float, float]] = COMBO.weight_bounds

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: float | None = None,
        conservative: Conservatism = "expectation",
        **kwargs: Any,
    ):
        if conservative_weight is None and target_gap is None:
            conservative_weight = 0.5
        super().__init__(
            *args, conservative_weight=conservative_weight, target_gap=target_gap, conservative=conservative, **kwargs
        )

    def penalty_rows(self, batch: Batch) -> slice:
        """States of rho: the rows that the model imagined."""
        return slice(batch.n_real, len(batch.rewards))
