"""
Eq 8 and Eq 13 as they stand, with small networks: what figures on packaged data were made with before the recipe. And the
peers' settings as their papers have them, which is what others' speed is compared with.
"""

from __future__ import annotations

import inspect
from typing import Any

from sb3_offline.training.schedules import CosineSchedule, HoldThenDecay

PENDULUM_OPTIONS: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [64, 64], "layer_norm": False},
    "averaging_rate": 0.0,
    "reward_scale": 1.0,
    "learning_rate": HoldThenDecay(1e-3, 1e-4),
    "qf_learning_rate": HoldThenDecay(1e-3, 1e-4),
    "tau": 0.01,
    "gamma": 0.98,
    "ent_coef": "auto_0.1",
    "conservative_weight": 0.1,
    "conservative": "logsumexp",
    "dynamics_kwargs": {
        "hidden_sizes": (64, 64),
        "n_members": 5,
        "n_elites": 3,
        "weight_decay": 1e-5,
        "max_epochs": 30,
    },
    "behavior_kwargs": {"hidden_sizes": (64, 64), "n_steps": 2000},
}

#: Eq 8 and Eq 13 as they stand, of the algorithms that have ``penalty_states``.
EQUATIONS: dict[str, Any] = {
    "conservative": "expectation",
    "penalty_states": "model",
    "n_action_samples": 10,
    "rollout_length": 5,
    "rollout_freq": 1000,
    "rollout_batch_size": 10_000,
}

_BEFORE_THE_RECIPES: dict[str, Any] = {
    "gamma": 0.99,
    "tau": 0.005,
    "averaging_rate": 0.0,
    "learning_rate": 3e-4,
    "qf_learning_rate": 3e-4,
    "policy_kwargs": {"net_arch": [256, 256], "layer_norm": False},
}

#: By algorithm's name, what others' speed is compared with, and what small policies start from.
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "cql": _BEFORE_THE_RECIPES
    | {
        "learning_rate": 1e-4,
        "conservative_weight": 2.5,
        "conservative": "logsumexp",
        "ent_coef": "auto",
        "reward_scale": 1.0,
        "policy_kwargs": {"net_arch": [256, 256, 256], "layer_norm": False},
    },
    "td3bc": _BEFORE_THE_RECIPES | {"alpha": 2.5},
    "awac": _BEFORE_THE_RECIPES | {"temperature": 1.0, "reward_scale": 1.0},
    "fql": _BEFORE_THE_RECIPES  # but for the networks, 4 x 512 in the paper, which would be beside the others' no comparison
    | {"distill_weight": 10.0, "normalize_q": False, "target_q": "mean", "policy_kwargs": {"net_arch": [256, 256]}},
    "iql": _BEFORE_THE_RECIPES | {"beta": 3.0, "reward_scale": 1.0, "learning_rate": CosineSchedule(3e-4)},
}


def demo_options(algorithm: type) -> dict[str, Any]:
    """What ``--demo-options`` stands for, as far as the algorithm takes it."""
    known = inspect.signature(algorithm).parameters
    options = PENDULUM_OPTIONS | (EQUATIONS if "penalty_states" in known else {})
    return {name: value for name, value in options.items() if name in known}
