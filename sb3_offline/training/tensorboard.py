"""What TensorBoard shows first: the curves grouped into a few charts, and the run's hyperparameters."""

from __future__ import annotations

import inspect
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import HParam, TensorBoardOutputFormat

#: The Custom Scalars dashboard: chart by section, each a list of tags (regular expressions). Absent tags are not drawn.
LAYOUT: dict[str, dict[str, list[Any]]] = {
    "Is it any good": {
        "return": ["Multiline", ["eval/mean_reward", "rollout/ep_rew_mean"]],
        "normalised score": ["Multiline", ["eval/normalized_score"]],
    },
    "Are the values sane": {
        "Q at the data and at the policy's actions": ["Multiline", ["train/q_data", "train/q_policy"]],
        "conservative gap": ["Multiline", ["train/conservative_gap"]],
        "conservative weight": ["Multiline", ["train/conservative_weight"]],
        "share of Q beyond its bound": ["Multiline", ["train/q_beyond_bound"]],
    },
    "Robust term": {
        "penalty": ["Multiline", ["train/robust_penalty"]],
        "spread of Q across actions": ["Multiline", ["train/q_spread", "train/q_relative_spread"]],
        "share of states where it flattens Q": ["Multiline", ["train/robust_active_fraction"]],
    },
    "Losses": {
        "critic": ["Multiline", ["train/critic_loss", "train/td_loss"]],
        "actor": ["Multiline", ["train/actor_loss"]],
        "entropy": ["Multiline", ["train/entropy", "train/ent_coef"]],
        "learning rates": ["Multiline", ["train/learning_rate", "train/qf_learning_rate"]],
    },
    "Dynamics model": {
        "fit": ["Multiline", ["dynamics/train_loss", "dynamics/holdout_error"]],
        "imagined rewards": ["Multiline", ["model_rollout/reward_mean"]],
        "imagined episodes": ["Multiline", ["model_rollout/length_mean", "model_rollout/terminated_fraction"]],
    },
}

#: Curves beside the hyperparameters; TensorBoard wants each to be logged by some run.
_METRICS = ("eval/mean_reward", "eval/normalized_score", "train/critic_loss", "train/q_data")

_NOT_HYPERPARAMETERS = {
    "env",
    "dataset",
    "policy",
    "tensorboard_log",
    "verbose",
    "device",
    "stats_window_size",
    "dynamics_cache",
}


def open_run(model: BaseAlgorithm, dataset_id: str) -> None:
    """
    Write the layout and the hyperparameters into the model's TensorBoard files; nothing happens if it has none.

    :param dataset_id: shown as the hyperparameter ``dataset``
    """
    for output in model.logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            output.writer.add_custom_scalars(LAYOUT)
            options = {
                name: str(value) if isinstance(value, bool) else value for name, value in hyperparameters(model).items()
            }
            values = {"algorithm": type(model).__name__, "dataset": dataset_id, **options}  # True would be shown as 1.0000
            output.write({"hparams": HParam(values, dict.fromkeys(_METRICS, 0.0))}, {"hparams": ()}, model.num_timesteps)


def hyperparameters(model: object) -> dict[str, Any]:
    """The constructor's arguments as the model keeps them; what is neither a number nor text becomes text."""
    found: dict[str, Any] = {}
    for name in inspect.signature(type(model)).parameters:
        if name in _NOT_HYPERPARAMETERS or name.startswith("_") or not hasattr(model, name):
            continue
        value = getattr(model, name)
        if value is not None and not isinstance(value, th.nn.Module):  # a module that took its option's name
            found[name] = value if isinstance(value, (bool, int, float, str)) else _text(value)
    return found


def _text(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value)
