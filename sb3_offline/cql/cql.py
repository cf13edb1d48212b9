"""Conservative Q-Learning (Kumar et al. 2020, arXiv 2006.04779), and Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_offline.arguments import check_count, check_flag
from sb3_offline.buffers.returns import returns_to_go
from sb3_offline.common.offline_sac import OfflineSAC, SACNoise
from sb3_offline.cql.conservative import ConservativePenalty
from sb3_offline.datasets import OfflineDataset
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.networks.observations import take_rows


@dataclass(frozen=True)
class CQLNoise(SACNoise):
    """
    What the conservative term draws at its S states: ``policy`` normals (S, N, action_dim), and for the log-sum-exp also
    ``next_policy`` normals and ``uniform`` actions in [-1, 1], shaped alike. With a max-target ``next_action`` holds as many
    normals a state as ``n_target_actions``.
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
    :param calibrated: Cal-QL: policy actions whose Q is below the data's return-to-go are not pushed down further.
    :param n_target_actions: Above 1, each critic's target is its maximum over that many next actions (max-target backup,
        appendix F), then the minimum over critics.
    :param bc_warmup_steps: The actor's first updates clone the data instead: they maximise log pi(a|s) of logged actions.
    """

    def __init__(
        self,
        *args: Any,
        n_action_samples: int = 10,
        calibrated: bool = False,
        n_target_actions: int = 1,
        bc_warmup_steps: int = 0,
        **kwargs: Any,
    ):
        self.n_action_samples = check_count("n_action_samples", n_action_samples)
        self.n_target_actions = check_count("n_target_actions", n_target_actions)
        self.calibrated = check_flag("calibrated", calibrated)
        self.bc_warmup_steps = check_count("bc_warmup_steps", bc_warmup_steps, least=0)
        if n_target_actions > 1 and kwargs.get("entropy_backup", False):
            raise ValueError("entropy_backup has no maximum over actions: leave it out, or n_target_actions at 1.")
        if kwargs.get("critic_update", "adam") != "adam":
            raise ValueError("critic_update='normalized_td' has no conservative term: use it with OfflineSAC.")
        super().__init__(*args, **kwargs)

    # --- the penalty ---

    def draw_noise(self, batch: Batch) -> CQLNoise:
        n_states = len(range(*self.penalty_rows(batch).indices(len(batch.rewards))))
        shape = (n_states, 1 if self.conservative == "expectation" else self.n_action_samples, batch.actions.shape[1])
        other = shape if self.conservative == "logsumexp" else (n_states, 0, shape[2])
        uniform = th.rand(other, generator=self.streams["policy"], device=self.device)
        noise = vars(super().draw_noise(batch))
        if self.n_target_actions > 1:
            n_rows, dim = batch.actions.shape
            noise["next_action"] = self.normals(n_rows, self.n_target_actions, dim, stream="target")
        return CQLNoise(
            **noise,
            policy=self.normals(*shape),
            next_policy=self.normals(*other),
            uniform=2.0 * uniform - 1.0,
        )

    def out_of_data_value(self, nets: SACNetworks, batch: Batch, noise: CQLNoise) -> th.Tensor:
        """
        max_mu E_mu Q + R(mu), (n_critics, S): log of the integral of exp Q, by importance sampling over 3N actions, for
        R = H(mu); log E_{a ~ pi} exp Q for R = -KL(mu, pi), whose mu is pi exp(Q)/Z; or E_{a ~ pi} Q.
        """
        rows = self.penalty_rows(batch)
        observations = take_rows(batch.observations, rows)
        with th.no_grad():
            actions, log_prob = nets.sample(observations, noise.policy)
            if self.conservative == "logsumexp":  # actions of pi(s') count at s; the uniform density on [-1, 1]^m is .5^m
                next_actions, next_log_prob = nets.sample(take_rows(batch.next_observations, rows), noise.next_policy)
                actions = th.cat([noise.uniform, next_actions, actions], dim=1)
                uniform_log_prob = log_prob.new_full(noise.uniform.shape[:2], -math.log(2.0) * noise.uniform.shape[2])
                log_prob = th.cat([uniform_log_prob, next_log_prob, log_prob], dim=1)
        q = nets.q(observations, actions)
        if batch.returns is not None:  # Cal-QL, Eq 5.1: max(Q, V) at the policy's actions, not at uniform ones
            uniform, policy = q.tensor_split([noise.uniform.shape[1]], dim=-1)
            q = th.cat([uniform, policy.maximum(batch.returns[rows].unsqueeze(-1))], dim=-1)
        if self.conservative == "expectation":
            return q.mean(dim=-1)
        return log_mean_exp(q - log_prob if self.conservative == "logsumexp" else q)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        if self.calibrated:
            rewards = self.reward_factor * dataset.rewards.astype(np.float64) + self.reward_shift
            returns = returns_to_go(rewards, dataset.terminations, dataset.episode_ends, self.gamma)
            self.replay_buffer.returns = th.as_tensor(returns, dtype=th.float32, device=self.device)

    def sample_batch(self) -> Batch:
        if not self.calibrated:
            return super().sample_batch()
        index = self.replay_buffer.sample_index(self.batch_size)
        batch = Batch.of(self.replay_buffer._get_samples(index))
        return batch._replace(returns=self.replay_buffer.returns[index])

    # --- target and actor ---

    @th.no_grad()
    def td_target(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        """SAC's, or y = r + gamma (1 - done) min_j max_a' Q'_j(s', a') over ``n_target_actions`` actions of pi: (B,)."""
        if self.n_target_actions == 1:
            return super().td_target(nets, batch, noise)
        actions, _ = nets.sample(batch.next_observations, noise.next_action)
        value = nets.q_target(batch.next_observations, actions).amax(dim=-1).amin(dim=0)
        return batch.rewards + self.gamma * (1.0 - batch.dones) * value

    def next_actions(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> th.Tensor:
        """Those that made the target: of ``n_target_actions`` the one with the largest Q' of the critic with the smallest."""
        actions = nets.act(batch.next_observations, noise.next_action)  # (B, n, action_dim)
        best, which = nets.q_target(batch.next_observations, actions).max(dim=-1)  # (n_critics, B)
        chosen = which.gather(0, best.argmin(dim=0, keepdim=True)).squeeze(0)
        return actions[th.arange(len(actions), device=actions.device), chosen]

    def actor_loss(self, nets: SACNetworks, batch: Batch, noise: SACNoise) -> tuple[th.Tensor, th.Tensor, Logs]:
        """SAC's; during the warm-up -E_D log pi(a|s), the likelihood of logged actions."""
        if not self.cloning:
            return super().actor_loss(nets, batch, noise)
        n = batch.n_real
        loss = -nets.log_prob(take_rows(batch.observations, slice(n)), batch.actions[:n].unsqueeze(1)).mean()
        with th.no_grad():  # for the temperature
            _, log_prob = nets.sample(batch.observations, noise.action)
        return loss, log_prob.squeeze(-1), {"actor_loss": loss, "entropy": -log_prob.mean()}

    cloning: bool = False  # is this update one of the warm-up?

    def update(self) -> None:
        self.cloning = self._n_updates < self.bc_warmup_steps
        super().update()

    def baked_in(self) -> tuple[Any, ...]:
        return (*super().baked_in(), self.cloning)


def log_mean_exp(values: th.Tensor) -> th.Tensor:
    """log of the mean of exp over the last dimension."""
    return th.logsumexp(values, dim=-1) - math.log(values.shape[-1])
