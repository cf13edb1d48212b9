"""DROMO: distributionally robust offline model-based policy optimisation (Liu, Chen, Zhong)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim

from sb3_offline.combo.combo import COMBO
from sb3_offline.common.behavior_policy import BehaviorNoise, BehaviorPolicy, fit_behavior_policy
from sb3_offline.common.model_based import RolloutPolicy
from sb3_offline.common.networks import Batch, SACNetworks
from sb3_offline.common.offline_sac import Logs
from sb3_offline.common.visitation import CountScale, VisitationMode, make_visitation
from sb3_offline.cql.cql import CQLNoise
from sb3_offline.datasets import OfflineDataset


@dataclass(frozen=True)
class DROMONoise(CQLNoise):
    """Also the actions of the robust term, at all B states: of pi_beta, and normals (B, N, action_dim) for pi."""

    behavior: BehaviorNoise
    robust_policy: th.Tensor


class DROMONetworks(SACNetworks):
    """The policy's networks, the behaviour policy and n(s)."""

    def __init__(self, model: DROMO):
        super().__init__(model.policy, model.normalizer)
        self.behavior_policy = model.behavior_policy
        self.visits = model.visitation

    def sample_behavior(self, observations: th.Tensor, noise: BehaviorNoise) -> th.Tensor:
        """Actions (B, N, action_dim) of pi_beta."""
        return self.behavior_policy.sample_from_noise(observations, noise)


class DROMO(COMBO):
    """
    COMBO whose critics also pay for the spread of Q across actions: alpha sqrt(Var_{pi^f}(Q(s, .)) / n(s)), with
    pi^f = f pi_beta + (1 - f) pi (DROMO, Eq 13), or for its variance over all of d_f (``strict``, Eq 17). The term is a
    variance regulariser, not a pointwise lower bound.

    :param robust_weight: alpha; the mean weight on the spread, as n(s) is rescaled to a mean n^{-1/2} of 1. 0 is COMBO.
    :param strict: Eq 17, the standard deviation of Q over the batch of d_f, instead of Eq 13.
    :param visitation: How n(s) is counted: "simhash" (default) or "constant".
    :param count_scale: "reference" rescales n(s); "raw" leaves n = \\|D\\| d(s) as the paper writes it.
    :param rollout_policy: As in :class:`COMBO`; the paper's Algorithm 1 rolls out the target policy.
    :param behavior_kwargs: Of pi_beta: ``n_components``, ``hidden_sizes``; of its fit: ``n_steps``, ``batch_size``.
    """

    def __init__(
        self,
        *args: Any,
        robust_weight: float = 0.1,
        strict: bool = False,
        visitation: VisitationMode | None = None,
        count_scale: CountScale = "reference",
        rollout_policy: RolloutPolicy = "target",
        behavior_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        if robust_weight < 0:
            raise ValueError(f"robust_weight must not be negative, got {robust_weight}.")
        if strict and visitation not in (None, "constant"):
            raise ValueError(f"strict (Eq 17) has one n for all states; visitation={visitation!r} belongs to Eq 13.")
        self.robust_weight = robust_weight
        self.strict = strict
        self.visitation_mode: VisitationMode = visitation or ("constant" if strict else "simhash")
        self.count_scale = count_scale
        self.behavior_kwargs = dict(behavior_kwargs or {})
        super().__init__(*args, rollout_policy=rollout_policy, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        architecture = {k: v for k, v in self.behavior_kwargs.items() if k in ("n_components", "hidden_sizes")}
        self.behavior_policy = BehaviorPolicy(
            get_flattened_obs_dim(self.observation_space),
            get_action_dim(self.action_space),
            generator=self.streams.cpu("behavior"),
            **architecture,
        ).to(self.device)
        self.visitation = make_visitation(self.visitation_mode, count_scale=self.count_scale).to(self.device)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        if self.robust_weight == 0:
            return  # COMBO, to the bit
        observations = self.replay_buffer.observations
        self.visitation.fit(observations, generator=self.streams.cpu("visitation"))
        if not self.strict and not bool(self.behavior_policy.fitted):
            options = {k: v for k, v in self.behavior_kwargs.items() if k not in ("n_components", "hidden_sizes")}
            fit_behavior_policy(
                self.behavior_policy,
                th.optim.Adam(self.behavior_policy.parameters(), lr=1e-3),
                observations,
                self.replay_buffer.actions,
                generator=self.streams.cpu("behavior"),
                on_log=self._log_behavior,
                progress_bar=progress_bar,
                **options,
            )

    def _log_behavior(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.logger.record(f"behavior_policy/{name}", value)
        self.logger.dump(step=step)

    def networks(self) -> DROMONetworks:
        return DROMONetworks(self)

    # --- the penalty ---

    def draw_noise(self, batch: Batch) -> CQLNoise:
        noise = super().draw_noise(batch)
        if self.robust_weight == 0 or self.strict:
            return noise
        n_states, n_actions = len(batch.rewards), self.n_action_samples
        return DROMONoise(
            **vars(noise),
            behavior=self.behavior_policy.draw_noise(n_states, n_actions, self.streams["robust"]),
            robust_policy=self.normals(n_states, n_actions, batch.actions.shape[1], stream="robust"),
        )

    def critic_penalty(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        penalty, logs = super().critic_penalty(nets, batch, noise, q)
        if self.robust_weight == 0:
            return penalty, logs
        eps = 1e-3 * q.detach().std().clamp(min=1e-3)  # keeps the root smooth where all actions have the same Q
        variance = q.var(dim=1, keepdim=True) if self.strict else self.action_variance(nets, batch, noise)
        spread = (variance + eps.square()).sqrt()  # sigma: (n_critics, B), or (n_critics, 1) if strict
        radius = self.robust_weight * nets.visits(batch.observations).rsqrt()  # alpha / sqrt(n(s)): (B,)
        robust = (radius * spread).mean(dim=1).sum()  # alpha E_{s ~ d_f} sqrt(Var / n(s))
        logs |= {
            "robust_penalty": robust,
            "q_spread": spread.mean(),
            "q_relative_spread": (spread / (q.detach().abs() + eps)).mean(),
            "robust_active_fraction": (radius >= spread).float().mean(),  # where the term flattens Q across actions
        }
        return penalty + robust, logs

    def action_variance(self, nets: DROMONetworks, batch: Batch, noise: DROMONoise) -> th.Tensor:
        """Var_{pi^f}(Q(s, .)) at the states of d_f, actions detached: (n_critics, B)."""
        with th.no_grad():
            behavior = nets.sample_behavior(batch.observations, noise.behavior)
            policy, _ = nets.sample(batch.observations, noise.robust_policy)
        q = nets.q(batch.observations, th.cat([behavior, policy], dim=1))
        n_behavior = behavior.shape[1]
        return stratified_variance(q[..., :n_behavior], q[..., n_behavior:], self.real_ratio)

    # --- save and load ---

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "behavior_policy", "visitation"], variables


def stratified_variance(q_behavior: th.Tensor, q_policy: th.Tensor, f: float) -> th.Tensor:
    """
    Var_{pi^f}(Q) from samples of each stratum; unbiased for f v_b + (1-f) v_p + f (1-f) (m_b - m_p)^2, never negative.

    :param q_behavior: Q at N_b actions of pi_beta, (..., N_b); N_b = 1 leaves its within-variance out.
    :param q_policy: Q at N_p actions of pi, (..., N_p).
    :param f: Weight of pi_beta.
    :return: (...)
    """
    mean = f * q_behavior.mean(-1, keepdim=True) + (1 - f) * q_policy.mean(-1, keepdim=True)
    variance = f * (q_behavior - mean).square().mean(-1) + (1 - f) * (q_policy - mean).square().mean(-1)
    for weight, q in ((f, q_behavior), (1 - f, q_policy)):  # + w^2 v / N, Bessel-corrected
        n = q.shape[-1]
        if n > 1:
            variance = variance + weight**2 * q.var(dim=-1) / n
    return variance
