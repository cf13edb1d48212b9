"""Exact solvers for finite MDPs and linear Q: the oracle that the deep losses are held against. numpy only."""

from sb3_offline.tabular.ambiguity import chi2_worst_case, cvar_worst_case
from sb3_offline.tabular.cvar import cvar_update
from sb3_offline.tabular.dromo import dromo_objective, dromo_update, lemma_factor, shrink_spread, strict_dromo_update
from sb3_offline.tabular.empirical import EmpiricalMDP, empirical_mdp
from sb3_offline.tabular.iteration import (
    FixedPoint,
    OfflineProblem,
    PolicyIteration,
    combo_rule,
    cql_h_rule,
    cql_rule,
    dromo_rule,
    evaluate,
    fixed_point,
    plain_rule,
    policy_iteration,
    strict_dromo_rule,
)
from sb3_offline.tabular.linear import LinearDromo, LstdSolution, lstd_q, projected_fqi_update
from sb3_offline.tabular.mdp import FiniteMDP, from_toy_text, random_mdp, random_policy, side_by_side
from sb3_offline.tabular.operators import (
    bellman,
    boltzmann,
    data_weight,
    greedy,
    mixed_target,
    occupancy,
    policy_evaluation,
)
from sb3_offline.tabular.updates import combo_update, cql_h_update, cql_update, mixture

__all__ = [
    "EmpiricalMDP",
    "FiniteMDP",
    "FixedPoint",
    "LinearDromo",
    "LstdSolution",
    "OfflineProblem",
    "PolicyIteration",
    "bellman",
    "boltzmann",
    "chi2_worst_case",
    "combo_rule",
    "combo_update",
    "cql_h_rule",
    "cql_h_update",
    "cql_rule",
    "cql_update",
    "cvar_update",
    "cvar_worst_case",
    "data_weight",
    "dromo_objective",
    "dromo_rule",
    "dromo_update",
    "empirical_mdp",
    "evaluate",
    "fixed_point",
    "from_toy_text",
    "greedy",
    "lemma_factor",
    "lstd_q",
    "mixed_target",
    "mixture",
    "occupancy",
    "plain_rule",
    "policy_evaluation",
    "policy_iteration",
    "projected_fqi_update",
    "random_mdp",
    "random_policy",
    "shrink_spread",
    "side_by_side",
    "strict_dromo_rule",
    "strict_dromo_update",
]
