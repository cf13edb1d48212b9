"""What Optuna searches: for each algorithm the grid that its paper searched, with our weights (half of the published)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Params = dict[str, Any]
Sampler = Callable[["optuna.Trial"], Params]


def sample_sac(trial: optuna.Trial) -> Params:
    """Learning rates of actor and critics (COMBO, Yu et al. 2021, section on hyperparameters: 1e-5..1e-4 and 1e-4..3e-4)."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 3e-4, log=True),
        "qf_learning_rate": trial.suggest_float("qf_learning_rate", 1e-4, 1e-3, log=True),
    }


def sample_conservative(trial: optuna.Trial) -> Params:
    """The weight of the conservative term; published grids reach from 0.5 to 10."""
    return {"conservative_weight": trial.suggest_float("conservative_weight", 0.05, 5.0, log=True)}


def sample_model_based(trial: optuna.Trial) -> Params:
    """Share of real data and length of rollouts (COMBO: {0.5, 0.8} and {1, 5, 25})."""
    return {
        "real_ratio": trial.suggest_float("real_ratio", 0.05, 0.8),
        "rollout_length": trial.suggest_categorical("rollout_length", [1, 3, 5, 10]),
    }


def sample_offline_sac(trial: optuna.Trial) -> Params:
    """OfflineSAC's search space: the learning rates."""
    return sample_sac(trial)


def sample_preqn(trial: optuna.Trial) -> Params:
    """PreQN's search space: the actor's rate, and the critic's line search (Achiam et al. 2019)."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "step_size": trial.suggest_float("step_size", 1e-3, 1.0, log=True),
        "cosine": trial.suggest_float("cosine", 0.9, 0.99),
    }


def sample_cql(trial: optuna.Trial) -> Params:
    """CQL's search space."""
    return sample_sac(trial) | sample_conservative(trial)


def sample_combo(trial: optuna.Trial) -> Params:
    """COMBO's search space."""
    return sample_cql(trial) | sample_model_based(trial)


def sample_robust(trial: optuna.Trial) -> Params:
    """The weight on the spread of Q."""
    return {"robust_weight": trial.suggest_float("robust_weight", 0.01, 3.0, log=True)}


def sample_dromo(trial: optuna.Trial) -> Params:
    """DROMO's search space: COMBO's and the robust weight."""
    return sample_combo(trial) | sample_robust(trial)


def sample_discrete_cql(trial: optuna.Trial) -> Params:
    """DiscreteCQL's search space: the Q-network's rate and the weight."""
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)} | sample_conservative(trial)


def sample_discrete_combo(trial: optuna.Trial) -> Params:
    """DiscreteCOMBO's search space."""
    return sample_discrete_cql(trial) | sample_model_based(trial)


def sample_discrete_dromo(trial: optuna.Trial) -> Params:
    """DiscreteDROMO's search space: DiscreteCOMBO's and the robust weight."""
    return sample_discrete_combo(trial) | sample_robust(trial)


def sample_mopo(trial: optuna.Trial) -> Params:
    """MOPO's search space: lambda (Yu et al. 2020 search {0.5, 1, 2, 5}) and the rollouts."""
    penalty_weight = trial.suggest_float("penalty_weight", 0.1, 10.0, log=True)
    return sample_sac(trial) | sample_model_based(trial) | {"penalty_weight": penalty_weight}


#: An algorithm joins the search with its sampler here; parameters are named as the constructor's arguments.
SAMPLERS: dict[str, Sampler] = {
    "combo": sample_combo,
    "cql": sample_cql,
    "discrete_combo": sample_discrete_combo,
    "discrete_cql": sample_discrete_cql,
    "discrete_dromo": sample_discrete_dromo,
    "dromo": sample_dromo,
    "mopo": sample_mopo,
    "offline_sac": sample_offline_sac,
    "preqn": sample_preqn,
}


def convert_params(sampled_params: Params) -> Params:
    """A finished trial's parameters as hyperparameters: they are the same, by construction."""
    return dict(sampled_params)
