"""COMBO: Conservative Offline Model-Based Policy Optimization (Yu et al. 2021, arXiv 2102.08363)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_offline.common.model_based_sac import ModelBasedSAC
from sb3_offline.cql.conservative import Conservatism
from sb3_offline.cql.cql import CQL, CQLNoise
from sb3_offline.datasets import OfflineDataset
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.training.schedules import HoldThenDecay

PenaltyStates = Literal["model", "mix"]

ACTOR_RATE, CRITIC_RATE = HoldThenDecay(1e-4), HoldThenDecay(3e-4)


class COMBO(ModelBasedSAC, CQL):
    """
    CQL whose pessimism falls on what the model imagines: beta (E_rho Q - E_D Q) beside 1/2 E_{d_f}(Q - y)^2 (Eq 8 of the
    DROMO paper, Eq 2 of COMBO). rho is the model buffer's states with fresh actions of the current policy, D the real rows.

    The defaults are the recipe that was found on hopper and halfcheetah medium-replay (see the benchmarks' page): rewards of
    unit size, a soft maximum over all states, critics with LayerNorm, a slow actor, both rates falling to 0 in the second half
    of ``learn``, and an average of the actor's weights.

    :param conservative_weight: beta, 1.5 if neither it nor ``target_gap`` is given; half of a published weight.
    :param target_gap: Learn beta, within [1e-6, 1e3], by dual descent so that E_rho Q - E_D Q stays below this.
    :param conservative: "expectation" is Eq 8 as it stands; "logsumexp" is COMBO's practical variant.
    :param penalty_states: rho's states: "model", the rows that the model imagined (Eq 8), or "mix", all rows of d_f.
    :param n_action_samples: As in :class:`~sb3_offline.CQL`: actions drawn for each of uniform, pi(s) and pi(s').
    """

    default_policy_kwargs: ClassVar = {"layer_norm": True}
    max_reward: th.Tensor
    weight_bounds: ClassVar[tuple[float, float]] = (1e-6, 1e3)

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: float | None = None,
        conservative: Conservatism = "logsumexp",
        penalty_states: PenaltyStates = "mix",
        n_action_samples: int = 3,
        learning_rate: float | Schedule = ACTOR_RATE,
        qf_learning_rate: float | Schedule = CRITIC_RATE,
        averaging_rate: float = 0.001,
        ent_coef: str | float = 0.007,
        reward_scale: float | Literal["auto"] = "auto",
        rollout_freq: int = 250,
        rollout_batch_size: int = 5000,
        **kwargs: Any,
    ):
        if kwargs.get("calibrated", False):
            raise ValueError(f"calibrated needs the returns of the states: {type(self).__name__}'s imagined states have none.")
        if conservative_weight is None and target_gap is None:
            conservative_weight = 1.5
        if penalty_states not in ("model", "mix"):
            raise ValueError(f"penalty_states must be 'model' or 'mix', got {penalty_states!r}.")
        self.penalty_states = penalty_states
        super().__init__(
            *args,
            conservative_weight=conservative_weight,
            target_gap=target_gap,
            conservative=conservative,
            n_action_samples=n_action_samples,
            learning_rate=learning_rate,
            qf_learning_rate=qf_learning_rate,
            averaging_rate=averaging_rate,
            ent_coef=ent_coef,
            reward_scale=reward_scale,
            rollout_freq=rollout_freq,
            rollout_batch_size=rollout_batch_size,
            **kwargs,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.register_state("max_reward", th.zeros((), device=self.device), saved=False)  # R_max of the data, for the log

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        rewards = self.reward_factor * dataset.rewards + self.reward_shift
        self.max_reward = th.as_tensor(np.abs(rewards).max(), dtype=th.float32, device=self.device)

    def penalty_rows(self, batch: Batch) -> slice:
        """States of rho: the rows that the model imagined, or all."""
        return slice(batch.n_real if self.penalty_states == "model" else 0, len(batch.rewards))

    def critic_penalty(self, nets: SACNetworks, batch: Batch, noise: CQLNoise, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        penalty, logs = super().critic_penalty(nets, batch, noise, q)
        # |beta g / d_f| <= beta max(1/f, 1/(1-f)): no Q of Eq 8 lies beyond this bound, unless beta drives it away
        worst = self.current_conservative_weight() * max(1 / self.real_ratio, 1 / (1 - self.real_ratio))
        bound = (self.max_reward + worst) / (1 - self.gamma)
        return penalty, {**logs, "q_beyond_bound": (q.detach().abs() > bound).float().mean()}
