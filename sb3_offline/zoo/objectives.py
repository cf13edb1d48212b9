"""What a search for hyperparameters maximises: the simulator's return, or what held-out episodes say where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from stable_baselines3.common.callbacks import BaseCallback

from sb3_offline.common.validation import Validation
from sb3_offline.datasets import OfflineDataset
from sb3_offline.ope import FQE, ModelBased

OBJECTIVES = ("simulator", "fqe", "model", "validation")
HELD_OUT = 0.2  # of the episodes, which no trial learns from

Judge = Callable[[Any], float]


def check_objective(name: str) -> str:
    """:raises ValueError: for none of :data:`OBJECTIVES`"""
    if name not in OBJECTIVES:
        raise ValueError(f"--objective must be one of {', '.join(OBJECTIVES)}, got {name!r}.")
    return name


def make_judge(objective: str, held_out: OfflineDataset) -> Judge:
    """
    A model's figure, more is better: the lower bound of FQE's estimate, or a learned world's, or minus the held-out TD error
    (which compares models of one discount and one scale of rewards only), of a clone the likelihood of held-out actions.
    """
    if objective == "validation":
        return lambda model: _held_out_value(Validation(model, held_out).figures())
    estimator = FQE(n_steps=2000) if objective == "fqe" else ModelBased()
    return lambda model: estimator.estimate(model, held_out).bound


def _held_out_value(figures: dict[str, float]) -> float:
    return -figures["td_error"] if "td_error" in figures else figures["likelihood"]  # a clone has no critic


class TrialEstimateCallback(BaseCallback):
    """
    In place of RL-Zoo's ``TrialEvalCallback``: reports the judge's figure to Optuna, which may give the trial up.

    :param trial: of the search
    :param judge: a model's figure
    :param eval_freq: gradient steps between looks
    """

    def __init__(self, trial: optuna.Trial, judge: Judge, eval_freq: int):
        super().__init__()
        self.trial, self.judge, self.eval_freq = trial, judge, eval_freq
        self.is_pruned, self.n_looks, self.last_mean_reward = False, 0, 0.0  # RL-Zoo's names

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self.last_mean_reward = self.judge(self.model)
            self.n_looks += 1
            self.trial.report(self.last_mean_reward, self.n_looks)
            self.is_pruned = self.trial.should_prune()
        return not self.is_pruned
