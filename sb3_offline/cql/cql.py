"""Conservative Q-Learning (Kumar et al. 2020, arXiv 2006.04779), and Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch as th

from sb3_offline.arguments import check_count, check_flag
from sb3_offline.buffers.returns import returns_to_go
from sb3_offline.common.actor_critic import MODEL_FREE_RECIPE
from sb3_offline.common.offline_sac import OfflineSAC, SACNoise
from sb3_offline.common.terms import Term
from sb3_offline.cql.conservative import (
    LEFT_OUT,
    SUPERSEDED,
    WITHOUT_EFFECT,
    Conservatism,
    SampledConservative,
    TargetGap,
    check_conservatism,
)
from sb3_offline.datasets import OfflineDataset
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.networks.observations import take_rows


class CQL(OfflineSAC):
    """
    SAC whose critics are pushed down on unseen actions and up on the data's:
    alpha (log E_a exp Q(s, a) - E_D Q) beside 1/2 (Q - y)^2 (CQL, Eq 4 with importance weights, appendix F).

    The soft maximum here is a log-mean-exp: a published ``target_gap`` tau is tau - log(3 n_action_samples) here.

    The defaults are the recipe that was found on hopper and halfcheetah medium-replay (see the benchmarks' page): rewards
    scaled to a root mean square of 1, a small temperature, and so the mean over the policy's actions in place of a soft
    maximum, in which a policy that is nearly deterministic hardly counts; critics with LayerNorm, a far horizon, quick
    targets, rates that fall to 0 in the second half of ``learn``, and an average of the actor's weights. The paper's settings
    are the locomotion entries of ``zoo_configs/cql.yml``.

    :param conservative_weight: alpha, 1 if neither it nor ``target_gap`` is given. Published weights belong to a TD loss
        without the 1/2: ours is half of theirs.
    :param target_gap: Learn the weight by dual descent so that the gap stays below this (CQL, Eq 30), or "auto":
        so that E_pi Q - E_D Q stays below a tenth of the standard deviation of Q over the data.
    :param conservative: The regulariser R(mu): "logsumexp" is CQL(H); "rho" is CQL(rho) with rho the current policy;
        "expectation" takes E_{a ~ pi} Q instead of a soft maximum (Eq 2).
    :param n_action_samples: N, actions that a soft maximum draws for each of uniform, pi(s) and pi(s').
    :param calibrated: Cal-QL: policy actions whose Q is below the data's return-to-go are not pushed down further.
    :param n_target_actions: Above 1, each critic's target is its maximum over that many next actions (max-target backup,
        appendix F), then the minimum over critics.
    :param bc_warmup_steps: The actor's first updates clone the data instead: they maximise log pi(a|s) of logged actions.
    """

    recipe: ClassVar = {**MODEL_FREE_RECIPE, "ent_coef": 0.007, "reward_scale": "auto"}
    default_policy_kwargs: ClassVar = {"layer_norm": True}
    left_out, without_effect = LEFT_OUT, WITHOUT_EFFECT
    superseded = SUPERSEDED
    rows_at_once = (("batch_size", "n_action_samples"), ("batch_size", "n_target_actions"))

    def __init__(
        self,
        *args: Any,
        conservative_weight: float | None = None,
        target_gap: TargetGap = None,
        conservative: Conservatism = "expectation",
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
        check_conservatism(self, SampledConservative, conservative_weight, target_gap, conservative, default=1.0)
        super().__init__(*args, **kwargs)

    def make_terms(self) -> list[Term]:
        return [SampledConservative(self)]

    # --- the data's returns ---

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

    def draw_noise(self, batch: Batch) -> SACNoise:
        """SAC's; with a max-target ``next_action`` holds as many normals a state as ``n_target_actions``."""
        noise = super().draw_noise(batch)
        if self.n_target_actions == 1:
            return noise
        n_rows, dim = batch.actions.shape
        return replace(noise, next_action=self.normals(n_rows, self.n_target_actions, dim, stream="target"))

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
