"""Conservative Q-Learning, CQL(H) (Kumar et al. 2020, arXiv 2006.04779)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch as th

from sb3_offline.common.networks import Batch, SACNetworks
from sb3_offline.common.offline_sac import Logs, OfflineSAC, SACNoise, minimize

Conservatism = Literal["logsumexp", "expectation"]


@dataclass(frozen=True)
class CQLNoise(SACNoise):
    """
    What the conservative term draws at its S states: ``policy`` normals (S, N, action_dim), and for the log-sum-exp also
    ``next_policy`` normals and ``uniform`` actions in [-1, 1], shaped alike.
    """

    policy: th.Tensor
    next_policy: th.Tensor
    uniform: th.Tensor


class CQL(OfflineSAC):
    """
    SAC whose critics are pushed down on unseen actions and up on the data's:
    alpha (log E_a exp Q(s, a) - E_D Q) beside 1/2 (Q - y)^2 (CQL, Eq 4 with importance weights, appendix F).

    :param conservative_weight: alpha, 2.5 if neither it nor ``target_gap`` is given. Published weights belong to a TD loss
        without the 1/2: ours is half of theirs.
    :param target_gap: Learn the weight by dual descent so that the gap stays below this (CQL, Eq 30). The soft maximum
        here is a log-mean-exp: a published gap tau is tau - log(3 n_action_samples) here.
    :param n_action_samples: N, actions drawn for each of uniform, pi(s) and pi(s').
    :param conservative: "logsumexp" is CQL(H); "expectation" takes E_{a ~ pi} Q instead of the soft maximum (Eq 2).
    """

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: float | None = None,
        n_action_samples: int = 10,
        conservative: Conservatism = "logsumexp",
        **kwargs: Any,
    ):
        if conservative_weight is not None and target_gap is not None:
            raise ValueError("Give conservative_weight (fixed) or target_gap (the weight is learned), not both.")
        if conservative_weight is not None and conservative_weight < 0:
            raise ValueError(f"conservative_weight must not be negative, got {conservative_weight}.")
        if n_action_samples < 1:
            raise ValueError(f"n_action_samples must be at least 1, got {n_action_samples}.")
        if conservative not in ("logsumexp", "expectation"):
            raise ValueError(f"conservative must be 'logsumexp' or 'expectation', got {conservative!r}.")
        if kwargs.get("critic_update", "adam") != "adam":
            raise ValueError("critic_update='normalized_td' has no conservative term: use it with OfflineSAC.")
        self.conservative_weight = 2.5 if conservative_weight is None else conservative_weight
        self.target_gap = target_gap
        self.n_action_samples = n_action_samples
        self.conservative = conservative
        super().__init__(*args, **kwargs)

    weight_bounds: ClassVar[tuple[float, float]] = (1e-6, 1e6)  # of a learned weight

    def _setup_model(self) -> None:
        super()._setup_model()
        self.log_conservative_weight: th.Tensor | None = None
        self.conservative_optimizer: th.optim.Optimizer | None = None
        if self.target_gap is not None:
            initial = math.log(max(self.conservative_weight, 1e-6))
            self.log_conservative_weight = th.full((1,), initial, device=self.device, requires_grad=True)
            self.conservative_optimizer = th.optim.Adam([self.log_conservative_weight], lr=self.qf_lr_schedule(1))

    # --- the penalty ---

    def penalty_rows(self, batch: Batch) -> slice:
        """The batch's rows whose states the conservative term pushes down: all of them, they are data."""
        return slice(0, len(batch.rewards))

    def draw_noise(self, batch: Batch) -> CQLNoise:
        n_states = len(range(*self.penalty_rows(batch).indices(len(batch.rewards))))
        soft_maximum = self.conservative == "logsumexp"
        shape = (n_states, self.n_action_samples if soft_maximum else 1, batch.actions.shape[1])
        other = shape if soft_maximum else (n_states, 0, shape[2])
        uniform = th.rand(other, generator=self.streams["policy"], device=self.device)
        return CQLNoise(
            **vars(super().draw_noise(batch)),
            policy=self.normals(*shape),
            next_policy=self.normals(*other),
            uniform=2.0 * uniform - 1.0,
        )

    def critic_penalty(self, nets: SACNetworks, batch: Batch, noise: CQLNoise, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        q_policy = self.out_of_data_value(nets, batch, noise).mean(dim=1)  # (n_critics,)
        gap = q_policy - q[:, : batch.n_real].mean(dim=1)
        weight = self.current_conservative_weight()
        logs = {"q_policy": q_policy.mean(), "conservative_gap": gap.mean(), "conservative_weight": weight.mean()}
        return (weight * gap).sum(), logs

    def out_of_data_value(self, nets: SACNetworks, batch: Batch, noise: CQLNoise) -> th.Tensor:
        """log E_a exp Q(s, a) by importance sampling over 3N actions at s, or E_{a ~ pi} Q(s, a): (n_critics, S)."""
        rows = self.penalty_rows(batch)
        observations = batch.observations[rows]
        with th.no_grad():
            actions, log_prob = nets.sample(observations, noise.policy)
        if self.conservative == "expectation":
            return nets.q(observations, actions).mean(dim=-1)
        with th.no_grad():  # actions of pi(s') count at s; the uniform density on [-1, 1]^m is .5^m
            next_actions, next_log_prob = nets.sample(batch.next_observations[rows], noise.next_policy)
            actions = th.cat([noise.uniform, next_actions, actions], dim=1)
            uniform_log_prob = log_prob.new_full(noise.uniform.shape[:2], -math.log(2.0) * noise.uniform.shape[2])
            log_prob = th.cat([uniform_log_prob, next_log_prob, log_prob], dim=1)
        return log_mean_exp(nets.q(observations, actions) - log_prob)

    # --- the weight by dual descent ---

    def current_conservative_weight(self) -> th.Tensor:
        """alpha: fixed, or exp(l) within ``weight_bounds``, detached."""
        if self.log_conservative_weight is None:
            return th.full((1,), self.conservative_weight, device=self.device)
        return self.log_conservative_weight.detach().exp().clamp(*self.weight_bounds)

    def after_critic_step(self, logs: Logs) -> None:
        if self.target_gap is None or self.log_conservative_weight is None or self.conservative_optimizer is None:
            return
        # minimise -alpha (gap - tau) over l: a gap above tau raises alpha
        weight = self.log_conservative_weight.exp()
        minimize(-(weight * (logs["conservative_gap"].detach() - self.target_gap)).mean(), self.conservative_optimizer)
        low, high = self.weight_bounds
        with th.no_grad():  # l stays within reach: beyond the bounds it could not come back for long
            self.log_conservative_weight.clamp_(math.log(low), math.log(high))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        if self.target_gap is not None:
            return [*state_dicts, "conservative_optimizer"], [*variables, "log_conservative_weight"]
        return state_dicts, variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "log_conservative_weight", "conservative_optimizer"]


def log_mean_exp(values: th.Tensor) -> th.Tensor:
    """log of the mean of exp over the last dimension."""
    return th.logsumexp(values, dim=-1) - math.log(values.shape[-1])
