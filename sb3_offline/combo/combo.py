"""COMBO: Conservative Offline Model-Based Policy Optimization (Yu et al. 2021, arXiv 2102.08363)."""

from __future__ import annotations

from typing import Any, ClassVar

from sb3_offline.arguments import check_count
from sb3_offline.combo.conservative import ModelConservative, PenaltyStates, check_penalty_states
from sb3_offline.common.model_based_sac import ModelBasedSAC
from sb3_offline.common.terms import Term
from sb3_offline.cql.conservative import LEFT_OUT, SUPERSEDED, WITHOUT_EFFECT, Conservatism, TargetGap, check_conservatism
from sb3_offline.training.schedules import HoldThenDecay


class COMBO(ModelBasedSAC):
    """
    :class:`~sb3_offline.CQL` whose pessimism falls on what the model imagines: beta (E_rho Q - E_D Q) beside
    1/2 E_{d_f}(Q - y)^2 (Eq 8 of the DROMO paper, Eq 2 of COMBO). rho is the model buffer's states with fresh actions of the
    current policy, D the real rows.

    The defaults are the recipe that was found on hopper and halfcheetah medium-replay (see the benchmarks' page): rollouts
    long enough that the policy meets the states that it leads to, a far horizon, quick targets, rewards of unit size, a soft
    maximum over all states, critics with LayerNorm, rates falling to 0 in the second half of ``learn``, and an average of the
    actor's weights.

    :param conservative_weight: beta, 0.5 if neither it nor ``target_gap`` is given; half of a published weight.
    :param target_gap: Learn beta, within [1e-6, 1e3], by dual descent so that E_rho Q - E_D Q stays below this, or "auto":
        below a tenth of the standard deviation of Q over the data.
    :param conservative: "expectation" is Eq 8 as it stands; "logsumexp" is COMBO's practical variant.
    :param penalty_states: rho's states: "model", the rows that the model imagined (Eq 8), or "mix", all rows of d_f.
    :param n_action_samples: As in :class:`~sb3_offline.CQL`: actions drawn for each of uniform, pi(s) and pi(s').
    """

    recipe: ClassVar = {
        "learning_rate": HoldThenDecay(2e-4),
        "qf_learning_rate": HoldThenDecay(3e-4),
        "gamma": 0.995,
        "tau": 0.02,
        "averaging_rate": 0.001,
        "ent_coef": 0.007,
        "reward_scale": "auto",
        "rollout_length": 50,
        "rollout_freq": 250,
        "rollout_batch_size": 1000,
    }
    default_policy_kwargs: ClassVar = {"layer_norm": True}
    left_out = LEFT_OUT | {
        "calibrated": "imagined states have no return-to-go, CQL's have",
        "n_target_actions": "the maximum over next actions is CQL's",
        "bc_warmup_steps": "the warm-up on logged actions is CQL's",
    }
    without_effect = WITHOUT_EFFECT | {"calibrated": False, "n_target_actions": 1, "bc_warmup_steps": 0}
    superseded = SUPERSEDED
    rows_at_once = (*ModelBasedSAC.rows_at_once, ("batch_size", "n_action_samples"))

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: TargetGap = None,
        conservative: Conservatism = "logsumexp",
        penalty_states: PenaltyStates = "mix",
        n_action_samples: int = 1,
        **kwargs: Any,
    ):
        check_conservatism(self, ModelConservative, conservative_weight, target_gap, conservative, default=0.5)
        self.penalty_states = check_penalty_states(penalty_states)
        self.n_action_samples = check_count("n_action_samples", n_action_samples)
        super().__init__(*args, **kwargs)

    def make_terms(self) -> list[Term]:
        return [ModelConservative(self)]
