"""MOPO: Model-based Offline Policy Optimization (Yu et al. 2020, arXiv 2005.13239), with DROMO's automatic temperature."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th

from sb3_offline.arguments import NOT_NEGATIVE, POSITIVE, Interval, check_number
from sb3_offline.common.model_based_sac import PENALIZED_RECIPE, ModelBasedSAC
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import PENALTIES, Forecast, Penalty, Rollout
from sb3_offline.dynamics.world import Columns, held_out_rows
from sb3_offline.mopo.buffer import PenalizedRolloutBuffer
from sb3_offline.networks.networks import Batch, Logs

NEW_ROLLOUT = 0.5  # the share of a new rollout in the mean of E[u]
MAX_WEIGHT = 10.0  # R/U: one std of u then costs ten of the reward


class MOPO(ModelBasedSAC):
    """
    SAC on imagined transitions that pay for what the model does not know: r - lambda u(s, a) (MOPO, Eq 5) with a fixed
    coefficient, or r - alpha u(s, a) with alpha learned so that imagined transitions keep E[u] <= delta (DROMO, appendix B,
    whose Eq 28 adds alpha delta to each reward: a constant for a fixed horizon, but pay for staying alive where episodes
    end. delta belongs in alpha's step alone).

    The defaults are the recipe that was found on hopper and halfcheetah medium-replay (see the benchmarks' page): rollouts
    long enough that the policy meets the states that it leads to, rewards of unit size, critics with LayerNorm, rates that
    fall to 0 in the second half of ``learn``, and an average of the actor's weights.

    :param penalty_weight: lambda, in units of (scaled) reward per unit of u; None learns alpha by dual ascent, from 0.
    :param penalty: u: "max_std" (MOPO's; the default of a fixed weight), "relative_entropy" (the default of a learned one),
        "entropy", "ensemble_std" or "pairwise_diff", see :mod:`sb3_offline.dynamics.penalties`.
    :param target_uncertainty: delta, for a learned weight; None takes it from u on held-out data.
    :param target_percentile: delta is this percentile, in [0, 100], of u on held-out data; None is its mean, so that rollouts
        are to be as certain as the data. The mean of rollouts seldom reaches a high one, and then nothing is penalised.
    :param penalty_learning_rate: Of alpha, whatever the units: a gradient step adds it times (E[u] - delta)/U, in units of
        R/U, with R the std of the data's rewards and U that of u on held-out data.
    :param max_penalty_weight: alpha stays at most this, as where no policy can reach delta; None is 10 R/U.
    :param rollout_freq: Gradient steps between rollouts. alpha follows the latest ones: stale ones make it swing.
    """

    recipe: ClassVar = {**PENALIZED_RECIPE, "entropy_backup": True}
    default_policy_kwargs: ClassVar = {"layer_norm": True}

    def __init__(
        self,
        *args: Any,
        penalty_weight: float | None = None,
        penalty: Penalty | None = None,
        target_uncertainty: float | None = None,
        target_percentile: float | None = None,
        penalty_learning_rate: float = 0.01,
        max_penalty_weight: float | None = None,
        **kwargs: Any,
    ):
        if penalty is None:
            penalty = "relative_entropy" if penalty_weight is None else "max_std"
        if penalty not in PENALTIES:
            raise ValueError(f"penalty must be one of {', '.join(PENALTIES)}, got {penalty!r}.")
        if penalty_weight is not None and target_uncertainty is not None:
            raise ValueError("Give penalty_weight (fixed) or target_uncertainty (the weight is learned), not both.")
        if target_percentile is not None and (penalty_weight is not None or target_uncertainty is not None):
            raise ValueError("target_percentile sets delta: it goes with neither penalty_weight nor target_uncertainty.")
        if penalty_weight is not None:
            penalty_weight = check_number("penalty_weight", penalty_weight, NOT_NEGATIVE)
        if max_penalty_weight is not None:
            if penalty_weight is not None:
                raise ValueError("max_penalty_weight bounds a learned weight: it does not go with penalty_weight.")
            max_penalty_weight = check_number("max_penalty_weight", max_penalty_weight, POSITIVE)
        if target_uncertainty is not None:
            target_uncertainty = check_number("target_uncertainty", target_uncertainty)
        if target_percentile is not None:
            target_percentile = check_number("target_percentile", target_percentile, Interval(0.0, 100.0))
        self.penalty_weight = penalty_weight
        self.penalty: Penalty = penalty
        self.target_uncertainty = target_uncertainty
        self.target_percentile = target_percentile
        self.max_penalty_weight = max_penalty_weight
        self.penalty_learning_rate = check_number("penalty_learning_rate", penalty_learning_rate, POSITIVE)
        super().__init__(*args, **kwargs)

    model_buffer: PenalizedRolloutBuffer
    penalty_coefficient: th.Tensor
    penalty_target: th.Tensor
    rollout_uncertainty: th.Tensor
    dual_step: DualStep

    def _setup_model(self) -> None:
        super()._setup_model()
        coefficient, target = self.penalty_weight or 0.0, self.target_uncertainty or 0.0  # delta is 0 for a fixed lambda
        self.register_state("penalty_coefficient", th.tensor(coefficient, device=self.device))  # lambda, or alpha
        self.register_state("penalty_target", th.tensor(target, device=self.device))  # delta
        # E[u], an exponential mean over rollouts
        self.register_state("rollout_uncertainty", th.tensor(math.nan, device=self.device), saved=False)

    def make_model_buffer(self, capacity: int) -> PenalizedRolloutBuffer:
        return PenalizedRolloutBuffer(capacity, self.observation_space, self.action_space, self.device)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        if self.penalty_weight is not None:
            self.penalty_coefficient.fill_(self.penalty_weight)  # load may have brought another
        else:
            held_out = Columns.of(dataset, held_out_rows(self.dynamics, dataset), self.device)
            u = self.uncertainty(held_out.observations, held_out.actions)
            target, percentile = self.target_uncertainty, self.target_percentile
            if target is None:
                self.penalty_target.copy_(u.mean() if percentile is None else u.quantile(percentile / 100))
            else:
                self.penalty_target.fill_(target)
            reward_scale = self.reward_factor * float(np.std(dataset.rewards)) or 1.0
            step = DualStep.of(reward_scale, float(u.std()) or 1.0, self.penalty_learning_rate, self.max_penalty_weight)
            step = DualStep(*(th.tensor(float(number), device=self.device) for number in step))
            self.register_state("dual_step", step, saved=False)

    @th.no_grad()
    def uncertainty(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """u(s, a) by all members: (B, obs) and (B, action_dim), environment units -> (B,)."""
        mean, std = self.dynamics.moments(observations, actions)
        return PENALTIES[self.penalty](Forecast(mean, std, self.dynamics.residual_std))

    def judge_rollout(self, imagined: Rollout) -> dict[str, th.Tensor]:
        u = self.uncertainty(imagined.observations, imagined.actions)
        if len(u):  # every row may have left the finite numbers
            before = self.rollout_uncertainty.nan_to_num(float(u.mean()))  # the first rollout stands for itself
            self.rollout_uncertainty.copy_(before.lerp(u.mean(), NEW_ROLLOUT))
            self.logger.record("model_rollout/uncertainty", float(u.mean()))
        self.logger.record("model_rollout/mean_uncertainty", float(self.rollout_uncertainty))
        self.logger.record("model_rollout/target_uncertainty", float(self.penalty_target))
        return {"uncertainties": u}

    def sample_batch(self) -> Batch:
        """d_f, its imagined rows with the penalised reward r - alpha u."""
        real = self.replay_buffer.sample(self.n_real)
        imagined, u = self.model_buffer.sample_with_uncertainty(self.batch_size - self.n_real)
        return Batch.of(real, imagined._replace(rewards=imagined.rewards - self.penalty_coefficient * u))

    def after_critic_step(self, logs: Logs) -> None:
        super().after_critic_step(logs)
        if self.penalty_weight is None:
            self.penalty_coefficient.copy_(
                self.dual_step(self.penalty_coefficient, self.rollout_uncertainty, self.penalty_target)
            )
        logs["penalty_weight"] = self.penalty_coefficient

    def largest_reward(self) -> float:
        """Imagined rewards are r - alpha u."""
        largest, n_rows = super().largest_reward(), self.model_buffer.size()
        if n_rows == 0:
            return largest
        return largest + float((self.penalty_coefficient * self.model_buffer.uncertainties[:n_rows]).abs().max())


class DualStep(NamedTuple):
    """
    One gradient step on J(alpha) = alpha (delta - E[u]) over 0 <= alpha <= cap (DROMO, appendix B): E[u] > delta raises alpha.

    J is linear, so its minimiser would be 0 or infinity; small steps let the policy follow.
    """

    rate: float | th.Tensor  # of reward per squared unit of u
    cap: float | th.Tensor

    @classmethod
    def of(cls, reward_scale: float, uncertainty_scale: float, learning_rate: float, cap: float | None) -> DualStep:
        """
        The step in units of its own: alpha counts in R/U, E[u] - delta in U.

        :param reward_scale: R, of one reward
        :param uncertainty_scale: U, of one u
        """
        unit = reward_scale / uncertainty_scale
        return cls(learning_rate * unit / uncertainty_scale, MAX_WEIGHT * unit if cap is None else cap)

    def __call__(self, alpha: th.Tensor, uncertainty: th.Tensor, target: th.Tensor) -> th.Tensor:
        return (alpha - self.rate * (target - uncertainty)).clamp(min=0.0).minimum(th.as_tensor(self.cap))
