"""What Optuna searches: for each option the grid that the papers searched, with our weights (half of the published)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Params = dict[str, Any]

#: The search space of each option that is searched; an algorithm searches those that its constructor takes.
SPACES: dict[str, Callable[[optuna.Trial, str], Any]] = {
    # COMBO, Yu et al. 2021, section on hyperparameters: 1e-4 and 3e-4
    "qf_learning_rate": lambda trial, name: trial.suggest_float(name, 1e-4, 1e-3, log=True),
    # published grids reach from 0.5 to 10, half of which is ours
    "conservative_weight": lambda trial, name: trial.suggest_float(name, 0.05, 10.0, log=True),
    # COMBO: {0.5, 0.8} and {1, 5, 25}; the default is 50, MOPO's 25
    "real_ratio": lambda trial, name: trial.suggest_float(name, 0.05, 0.8),
    "rollout_length": lambda trial, name: trial.suggest_categorical(name, [1, 5, 25, 50]),
    # the weight on the spread of Q
    "robust_weight": lambda trial, name: trial.suggest_float(name, 0.01, 3.0, log=True),
    # MOPO's lambda, and MOBILE's; Yu et al. 2020 search {0.5, 1, 2, 5}, Sun et al. 2023 take 0.1 to 5
    "penalty_weight": lambda trial, name: trial.suggest_float(name, 0.1, 10.0, log=True),
    # TD3+BC's weight of Q; around the published 2.5
    "alpha": lambda trial, name: trial.suggest_float(name, 0.5, 10.0, log=True),
    # ReBRAC; Tarasov et al. 2023 search {.001, .01, .05, .1} and {0, .001, .01, .1, .5}
    "actor_beta": lambda trial, name: trial.suggest_float(name, 1e-3, 0.1, log=True),
    "critic_beta": lambda trial, name: trial.suggest_float(name, 1e-3, 0.5, log=True),
    # %BC; Chen et al. 2021 take these
    "top_percent": lambda trial, name: trial.suggest_categorical(name, [10, 25, 40, 100]),
    # IQL; Kostrikov et al. 2021 take .7 and .9, and 3 and 10; the default of scaled rewards is .5
    "expectile": lambda trial, name: trial.suggest_float(name, 0.5, 0.95),
    "beta": lambda trial, name: trial.suggest_float(name, 0.1, 10.0, log=True),
    # BCQ's tau; Fujimoto et al. 2019 take .3. None has no such rule
    "support_threshold": lambda trial, name: trial.suggest_categorical(name, [None, 0.1, 0.3, 0.5]),
    # AWAC; around the published 1
    "temperature": lambda trial, name: trial.suggest_float(name, 0.1, 10.0, log=True),
    # FQL's alpha, which counts in units of Q unless Q is normalised; Park et al. 2025 take 3 to 30,000, and 0.03 to 10
    "distill_weight": lambda trial, name: trial.suggest_float(name, 0.03, 1000.0, log=True),
    "normalize_q": lambda trial, name: trial.suggest_categorical(name, [False, True]),
    # EDAC; An et al. 2021 take 1 and 5 in locomotion, 10 to 1000 on Adroit
    "eta": lambda trial, name: trial.suggest_float(name, 0.1, 100.0, log=True),
    # SAC-N and EDAC; An et al. 2021 take 10 to 500, whose cost grows with their number
    "n_critics": lambda trial, name: trial.suggest_categorical(name, [5, 10, 20, 50]),
    # PreQN's line search (Achiam et al. 2019)
    "step_size": lambda trial, name: trial.suggest_float(name, 1e-3, 1.0, log=True),
    "cosine": lambda trial, name: trial.suggest_float(name, 0.9, 0.99),
}


def make_sampler(algorithm: type) -> Callable[..., Params]:
    """
    An algorithm's search space, in RL-Zoo's form: parameters are named as the constructor's arguments.

    :param algorithm: its class, one of our own or of a third party
    :return: a function of a trial; RL-Zoo also passes the number of actions and of envs, and hindsight replay's arguments
    """
    known = inspect.signature(algorithm).parameters
    # an actor beside critics learns more slowly than they do: COMBO's grid is 1e-5 .. 1e-4
    low, high = (1e-5, 3e-4) if "qf_learning_rate" in known else (1e-4, 3e-3)

    def sample(trial: optuna.Trial, *_: Any) -> Params:
        rate = trial.suggest_float("learning_rate", low, high, log=True)
        return {"learning_rate": rate} | {name: space(trial, name) for name, space in SPACES.items() if name in known}

    return sample


def convert_params(sampled_params: Params) -> Params:
    """A finished trial's parameters as hyperparameters: they are the same, by construction."""
    return dict(sampled_params)
