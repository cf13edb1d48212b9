"""A callback that notices values running away, and does something about it."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, Literal, get_args

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.cql.conservative import Conservative
from sb3_offline.training.health import CHECK_FREQ, non_finite_parameter

GuardAction = Literal["warn", "stop", "lower_lr", "restore"]
N_PROBE = 256


class DivergenceGuard(BaseCallback):
    """
    Every ``check_freq`` steps, hold Q at the data, its gap to Q at policy and uniform actions, the critic's loss and a learned
    conservative weight against what they can be at most; warn when one is beyond it, and act.

    The limits: ``bound_factor`` times the algorithm's ``value_bound`` for E|Q| at the data, twice that for the gap, a finite
    loss, and ``weight_growth`` times its first value for a learned weight (:attr:`~sb3_offline.CQL.target_gap` that cannot be
    reached). It acts again only when things have become worse. Its probe draws from a generator of its own: a run that stays
    within the limits is the same with and without it. Recorded under ``divergence/``; ``severity`` above 1 is beyond a limit.

    :param action: "warn" alone; "stop" training; "lower_lr" multiplies all learning rates by ``lr_factor``; "restore" goes
        back to the weights and optimisers of the last good check, and lowers the rates too.
    :param check_freq: Steps between checks.
    :param bound_factor: Tolerance, at least 1.
    :param weight_growth: Above 1.
    :param lr_factor: In (0, 1).
    :raises ValueError: for an argument outside its range.
    """

    model: GradientAlgorithm

    def __init__(
        self,
        action: GuardAction = "warn",
        check_freq: int = 1000,
        bound_factor: float = 2.0,
        weight_growth: float = 1000.0,
        lr_factor: float = 0.5,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        if action not in get_args(GuardAction):
            raise ValueError(f"action must be one of {', '.join(get_args(GuardAction))}, got {action!r}.")
        if check_freq < 1 or bound_factor < 1 or weight_growth <= 1 or not 0 < lr_factor < 1:
            raise ValueError(
                "check_freq and bound_factor must be at least 1, weight_growth above 1 and lr_factor in (0, 1), got "
                f"{check_freq}, {bound_factor}, {weight_growth} and {lr_factor}."
            )
        self.action = action
        self.check_freq = check_freq
        self.bound_factor = bound_factor
        self.weight_growth = weight_growth
        self.lr_factor = lr_factor
        self.events: list[dict[str, float]] = []  # the figures, with their "step", of each time it acted
        self._worst = 1.0

    def _init_callback(self) -> None:
        if not isinstance(self.model, GradientAlgorithm):
            name = type(self.model).__name__
            raise TypeError(f"DivergenceGuard watches sb3_offline's algorithms, whose data bound their values, not {name}.")
        if not self.model.has_critic:
            raise TypeError(f"DivergenceGuard watches values, and {type(self.model).__name__} has none: leave it out.")

    def _on_training_start(self) -> None:
        model, buffer = self.model, self.model.replay_buffer
        generator = th.Generator(device=model.device).manual_seed(0)
        rows = th.randint(buffer.size(), (N_PROBE,), generator=generator, device=model.device)
        self._observations, self._actions = (buffer._rows(name, rows) for name in ("observations", "actions"))
        self._first_weight = self._learned_weight()
        self._good = self._snapshot()

    def _on_step(self) -> bool:
        if self.n_calls % self.check_freq != 0 and not self._about_to_fail():
            return True
        figures = self.figures()
        for name, value in figures.items():
            self.logger.record(f"divergence/{name}", value)
        severity = figures["severity"]
        if severity <= 1.0:
            self._worst, self._good = 1.0, self._snapshot()
        elif severity > self._worst:
            self._worst = severity
            self.events.append({"step": self.num_timesteps, **figures})
            return self._act(figures)
        return True

    def _about_to_fail(self) -> bool:
        """Whether ``learn`` will find a NaN at this step, and stop: the guard comes first."""
        if self.num_timesteps % CHECK_FREQ != 0:
            return False
        return self.model.log_sums.watch.first_failure() is not None or non_finite_parameter(self.model) is not None

    def figures(self) -> dict[str, float]:
        """What is watched, and ``severity``: the largest share of a limit."""
        bound = self.bound_factor * self.model.value_bound()
        generator = th.Generator(device=self.model.device).manual_seed(0)  # the same draws at every look
        q_data, q_ood = self.model.watched_values(self._observations, self._actions, generator)
        gaps = q_ood.mean(dim=(1, 2)) - q_data.mean(dim=1)
        loss = self.model.log_sums.mean("critic_loss")
        figures = {
            "q_data_abs": float(q_data.abs().mean(dim=1).max()),
            "ood_gap": float(gaps[gaps.abs().argmax()]),
            "critic_loss": loss,
            "q_bound": bound,
        }
        shares = [figures["q_data_abs"] / bound, abs(figures["ood_gap"]) / (2 * bound)]
        weight = self._learned_weight()
        if weight is not None and self._first_weight is not None:
            figures["conservative_weight"] = weight
            shares.append(weight / (self.weight_growth * self._first_weight))
        finite = all(math.isfinite(share) for share in (*shares, loss))
        return figures | {"severity": max(shares) if finite else math.inf}

    def _act(self, figures: dict[str, float]) -> bool:
        done = {
            "warn": "Training goes on.",
            "stop": "Training is stopped.",
            "lower_lr": f"All learning rates are multiplied by {self.lr_factor}.",
            "restore": f"The last good weights are restored, and all learning rates multiplied by {self.lr_factor}.",
        }
        values = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        layer_norm = ", or policy_kwargs=dict(layer_norm=True)" if hasattr(self.model.policy, "layer_norm") else ""
        warnings.warn(
            f"Step {self.num_timesteps}: values are running away ({values}). {done[self.action]} "
            f"Lower {self.model.critic_rate} or gamma, or take a fixed conservative_weight or a larger "
            f"target_gap{layer_norm}.",
            stacklevel=2,
        )
        if self.action == "restore":
            self._restore()
            self._worst = 1.0
        if self.action in ("lower_lr", "restore"):
            self.model.scale_learning_rates(self.lr_factor)
        return self.action != "stop"

    def _learned_weight(self) -> float | None:
        if getattr(self.model, "target_gap", None) is None:
            return None
        return next((float(term.weight()) for term in self.model.terms if isinstance(term, Conservative)), None)

    def _tensors(self) -> dict[str, th.Tensor]:
        names = self.model._get_torch_save_params()[1]
        return {name: getattr(self.model, name) for name in names if isinstance(getattr(self.model, name, None), th.Tensor)}

    def _snapshot(self) -> Any:
        if self.action != "restore":
            return None
        tensors = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        return copy.deepcopy(self.model.get_parameters()), tensors

    def _restore(self) -> None:
        parameters, tensors = self._good
        self.model.set_parameters(copy.deepcopy(parameters), device=self.model.device)
        for name, tensor in self._tensors().items():
            tensor.data.copy_(tensors[name])
        self.model.log_sums.reset()  # they hold what was wrong
