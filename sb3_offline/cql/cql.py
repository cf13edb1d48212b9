"""Conservative Q-Learning, CQL(H) (Kumar et al. 2020, arXiv 2006.04779)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_offline.common.networks import Batch, SACNetworks
from sb3_offline.common.offline_sac import OfflineSAC, SACNoise
from sb3_offline.cql.conservative import ConservativePenalty


@dataclass(frozen=True)
class CQLNoise(SACNoise):
    """
    What the conservative term draws at its S states: ``policy`` normals (S, N, action_dim), and for the log-sum-exp also
    ``next_policy`` normals and ``uniform`` actions in [-1, 1], shaped alike.
    """

    policy: th.Tensor
    next_policy: th.Tensor
    uniform: th.Tensor


class CQL(ConservativePenalty, OfflineSAC):
    """
    SAC whose critics are pushed down on unseen actions and up on the data's:
    alpha (log E_a exp Q(s, a) - E_D Q) beside 1/2 (Q - y)^2 (CQL, Eq 4 with importance weights, appendix F).

    The soft maximum here is a log-mean-exp: a published ``target_gap`` tau is tau - log(3 n_action_samples) here.

    :param n_action_samples: N, actions drawn for each of uniform, pi(s) and pi(s').
    """

    def __init__(self, *args: Any, n_action_samples: int = 10, **kwargs: Any):
        if n_action_samples < 1:
            raise ValueError(f"n_action_samples must be at least 1, got {n_action_samples}.")
        if kwargs.get("critic_update", "adam") != "adam":
            raise ValueError("critic_update='normalized_td' has no conservative term: use it with OfflineSAC.")
        self.n_action_samples = n_action_samples
        super().__init__(*args, **kwargs)

    # --- the penalty ---

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


def log_mean_exp(values: th.Tensor) -> th.Tensor:
    """log of the mean of exp over the last dimension."""
    return th.logsumexp(values, dim=-1) - math.log(values.shape[-1])
