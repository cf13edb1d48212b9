"""DROMO for discrete actions, on DQN (Liu, Chen, Zhong): the sums over actions are exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_offline.arguments import NOT_NEGATIVE, check_flag, check_number
from sb3_offline.behavior.behavior_fit import fit_behavior_policy
from sb3_offline.behavior.discrete_behavior_policy import DiscreteBehaviorPolicy
from sb3_offline.behavior.visitation import VisitationMode, make_visitation
from sb3_offline.behavior.visits import CountScale, VisitationCounts
from sb3_offline.combo.discrete_combo import DiscreteCOMBO
from sb3_offline.common.model_based import RolloutPolicy
from sb3_offline.common.offline_dqn import DQNNetworks, one_hot
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dromo.options import split_behavior_kwargs, warn_if_unused
from sb3_offline.dromo.robustness import smoothing, spread_logs
from sb3_offline.networks.networks import Batch, Logs


class DiscreteDROMONetworks(DQNNetworks):
    """The policy's networks, the behaviour policy and n(s)."""

    def __init__(self, model: DiscreteDROMO):
        super().__init__(model.policy, model.normalizer)
        self.behavior_policy = model.behavior_policy
        self.visits = model.visitation

    @th.no_grad()
    def behavior(self, observations: th.Tensor) -> th.Tensor:
        """pi_beta(a|s), (B, n_actions)."""
        return self.behavior_policy(observations).exp()


class DiscreteDROMO(DiscreteCOMBO):
    """
    :class:`DiscreteCOMBO` whose Q also pays for its spread across actions: alpha sqrt(Var_{pi^f}(Q(s, .)) / n(s)), with
    pi^f = f pi_beta + (1 - f) pi (DROMO, Eq 13) and pi greedy, or for its variance over all of d_f (``strict``, Eq 17).
    The term is a variance regulariser, not a pointwise lower bound.

    :param robust_weight: alpha; 0 is COMBO. n(s) is rescaled so that alpha n^{-1/2}, the weight on the spread, is alpha on
        average over the data; over d_f, where rollouts visit rarer states, it is more.
    :param strict: Eq 17, the standard deviation of Q over the batch of d_f, instead of Eq 13.
    :param visitation: How n(s) is counted: "knn" (default), "simhash", "constant", or "exact" for one-hot states.
    :param count_scale: "reference" rescales n(s); "raw" leaves n = \\|D\\| d(s) as the paper writes it.
    :param rollout_policy: As in :class:`DiscreteCOMBO`; the paper's Algorithm 1 rolls out the target policy.
    :param behavior_kwargs: Of pi_beta: ``hidden_sizes``; of its fit: ``n_steps``, ``batch_size``.
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
        self.robust_weight = check_number("robust_weight", robust_weight, NOT_NEGATIVE)
        self.strict = check_flag("strict", strict)
        if strict and visitation not in (None, "constant"):
            raise ValueError(f"strict (Eq 17) has one n for all states; visitation={visitation!r} belongs to Eq 13.")
        warn_if_unused(behavior_kwargs, robust_weight)
        self.visitation_mode: VisitationMode = visitation or ("constant" if strict else "knn")
        self.count_scale = count_scale
        split_behavior_kwargs(behavior_kwargs, ("hidden_sizes",))  # refuses bad options now
        self.behavior_kwargs = dict(behavior_kwargs or {})
        super().__init__(*args, rollout_policy=rollout_policy, **kwargs)

    behavior_policy: DiscreteBehaviorPolicy
    visitation: VisitationCounts

    def _setup_model(self) -> None:
        super()._setup_model()
        architecture, _ = split_behavior_kwargs(self.behavior_kwargs, ("hidden_sizes",))
        observation_dim = get_flattened_obs_dim(self.observation_space)
        behavior_policy = DiscreteBehaviorPolicy(
            observation_dim, int(self.action_space.n), generator=self.streams.cpu("behavior"), **architecture
        )
        self.register_state("behavior_policy", behavior_policy.to(self.device))
        if not hasattr(self, "visitation_seed"):  # else load() brought it: the cells of states stay what they were
            self.visitation_seed = self.streams.cpu("visitation").initial_seed()
        n_states = observation_dim if self.visitation_mode == "exact" else None
        visitation = make_visitation(self.visitation_mode, count_scale=self.count_scale, n_states=n_states)
        self.register_state("visitation", visitation.to(self.device))

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        if self.robust_weight == 0:
            return  # COMBO, to the bit
        observations = self.replay_buffer.observations
        self.visitation.fit(observations, generator=th.Generator().manual_seed(self.visitation_seed))
        if not self.strict and not bool(self.behavior_policy.fitted):
            _, options = split_behavior_kwargs(self.behavior_kwargs, ("hidden_sizes",))
            every_row = th.arange(self.replay_buffer.size(), device=self.device)
            fit_behavior_policy(
                self.behavior_policy,
                th.optim.Adam(self.behavior_policy.parameters(), lr=1e-3),
                observations,
                one_hot(self.replay_buffer._rows("actions", every_row), int(self.action_space.n)),
                generator=self.streams.cpu("behavior"),
                progress_bar=progress_bar,
                **options,
            )

    def networks(self) -> DiscreteDROMONetworks:
        return DiscreteDROMONetworks(self)

    # --- the penalty ---

    def critic_penalty(self, nets: Any, batch: Batch, noise: None, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        penalty, logs = super().critic_penalty(nets, batch, noise, q)
        if self.robust_weight == 0:
            return penalty, logs
        variance = q.var(dim=1, keepdim=True) if self.strict else self.action_variance(nets, batch)
        spread = (variance + smoothing(q).square()).sqrt()  # sigma: (n_critics, B), or (n_critics, 1) if strict
        radius = self.robust_weight * nets.visits(batch.observations).rsqrt()  # alpha / sqrt(n(s)): (B,)
        robust = (radius * spread).mean(dim=1).sum()  # alpha E_{s ~ d_f} sqrt(Var / n(s))
        active = radius >= spread  # where the term flattens Q across actions
        return penalty + robust, {**logs, **spread_logs(spread, q, active), "robust_penalty": robust}

    def action_variance(self, nets: DiscreteDROMONetworks, batch: Batch) -> th.Tensor:
        """Var_{pi^f}(Q(s, .)) at the states of d_f, exact: (n_critics, B)."""
        observations, f = batch.observations, self.real_ratio
        pi_f = f * nets.behavior(observations) + (1 - f) * nets.policy(observations)
        q = nets.q(observations)
        return (pi_f * (q - (pi_f * q).sum(dim=-1, keepdim=True)).square()).sum(dim=-1)
