"""COMBO for discrete actions, on DQN (Yu et al. 2021, arXiv 2102.08363)."""

from __future__ import annotations

from typing import Any, ClassVar

from sb3_offline.combo.conservative import ExactModelConservative, PenaltyStates, check_penalty_states
from sb3_offline.common.model_based_dqn import ModelBasedDQN
from sb3_offline.common.terms import Term
from sb3_offline.cql.conservative import SUPERSEDED, Conservatism, TargetGap, check_conservatism
from sb3_offline.training.schedules import HoldThenDecay


class DiscreteCOMBO(ModelBasedDQN):
    """
    :class:`~sb3_offline.DiscreteCQL` whose pessimism falls on what the model imagines: beta (E_rho Q - E_D Q) beside
    1/2 E_{d_f}(Q - y)^2 (Eq 8 of the DROMO paper, Eq 2 of COMBO). rho is the model buffer's states with the greedy
    policy's action.

    The defaults are the recipe of :class:`~sb3_offline.COMBO` as far as a Q-network alone has its parts: long rollouts, a far
    horizon, quick targets, rewards of unit size, a soft maximum over all states, and a rate that falls to 0 in the second half
    of ``learn``.

    :param conservative_weight: beta, 0.5 if neither it nor ``target_gap`` is given; half of a published weight.
    :param target_gap: Learn beta, within [1e-6, 1e3], by dual descent so that E_rho Q - E_D Q stays below this, or "auto":
        below a tenth of the standard deviation of Q over the data.
    :param conservative: "expectation" is Eq 8 as it stands; "logsumexp" is COMBO's practical variant, here exact.
    :param penalty_states: rho's states: "model", the rows that the model imagined (Eq 8), or "mix", all rows of d_f.
    """

    recipe: ClassVar = {
        "learning_rate": HoldThenDecay(1e-3),
        "tau": 0.02,
        "gamma": 0.995,
        "reward_scale": "auto",
        "rollout_length": 50,
        "rollout_freq": 250,
        "rollout_batch_size": 1000,
    }
    superseded = SUPERSEDED

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: TargetGap = None,
        conservative: Conservatism = "logsumexp",
        penalty_states: PenaltyStates = "mix",
        **kwargs: Any,
    ):
        check_conservatism(self, ExactModelConservative, conservative_weight, target_gap, conservative, default=0.5)
        self.penalty_states = check_penalty_states(penalty_states)
        super().__init__(*args, **kwargs)

    def make_terms(self) -> list[Term]:
        return [ExactModelConservative(self)]
