"""COMBO's conservative term: the pessimism falls on the states of rho."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch as th

from sb3_offline.cql.conservative import Conservative, ExactConservative, SampledConservative
from sb3_offline.datasets import OfflineDataset
from sb3_offline.networks.networks import Batch, Logs

PenaltyStates = Literal["model", "mix"]


def largest_quotient(f: float) -> float:
    """(rho - d) / d_f with d_f = f d + (1 - f) rho lies between -1/f and 1/(1 - f)."""
    return max(1.0 / f, 1.0 / (1.0 - f))


def penalty_of_rewards(model: Any) -> float:
    """How much of a reward beta (rho - d) / d_f stands for at most, by a fixed weight beta."""
    return 0.0 if model.target_gap is not None else model.conservative_weight * largest_quotient(model.real_ratio)


def check_penalty_states(penalty_states: str) -> PenaltyStates:
    """
    :return: what was given
    :raises ValueError: for what is neither "model" nor "mix"
    """
    if penalty_states not in get_args(PenaltyStates):
        raise ValueError(f"penalty_states must be 'model' or 'mix', got {penalty_states!r}.")
    return penalty_states  # type: ignore[return-value]


class PenaltyOfRho(Conservative):
    """beta (E_rho Q - E_D Q), rho's states by the model's ``penalty_states``: the rows that were imagined, or all."""

    weight_bounds = (1e-6, 1e3)

    def rows(self, batch: Batch) -> slice:
        return slice(batch.n_real if self.model.penalty_states == "model" else 0, len(batch.rewards))

    def largest_reward(self) -> float:
        return penalty_of_rewards(self.model)


class ModelConservative(PenaltyOfRho, SampledConservative):
    """For continuous actions."""

    def setup(self) -> None:
        super().setup()
        model = self.model
        model.register_state("max_reward", th.zeros((), device=model.device), saved=False)  # R_max of the data, for the log

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        rewards = self.model.reward_factor * dataset.rewards + self.model.reward_shift
        self.model.max_reward = th.as_tensor(np.abs(rewards).max(), dtype=th.float32, device=self.model.device)

    def loss(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        penalty, logs = super().loss(nets, batch, noise, q)
        # |beta g / d_f| <= beta max(1/f, 1/(1-f)): no Q of Eq 8 lies beyond this bound, unless beta drives it away
        worst = self.weight() * largest_quotient(self.model.real_ratio)
        bound = (self.model.max_reward + worst) / (1 - self.model.gamma)
        return penalty, {**logs, "q_beyond_bound": (q.detach().abs() > bound).float().mean()}


class ExactModelConservative(PenaltyOfRho, ExactConservative):
    """For discrete actions."""
