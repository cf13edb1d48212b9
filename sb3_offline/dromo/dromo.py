"""DROMO: distributionally robust offline model-based policy optimisation (Liu, Chen, Zhong)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim

from sb3_offline.arguments import check_count, check_flag
from sb3_offline.behavior.behavior_fit import fit_behavior_policy
from sb3_offline.behavior.behavior_policy import BehaviorPolicy, observation_moments
from sb3_offline.behavior.visitation import VisitationMode, make_visitation
from sb3_offline.behavior.visits import CountScale, VisitationCounts
from sb3_offline.combo.combo import COMBO
from sb3_offline.common.model_based import RolloutPolicy
from sb3_offline.cql.cql import CQLNoise
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dromo.actor_rules import SVPG, ActorRegularizer, Entropy, actor_rule
from sb3_offline.dromo.networks import DROMONetworks, DROMONoise
from sb3_offline.dromo.options import (
    check_lipschitz,
    check_size,
    refuse_contradictions,
    split_behavior_kwargs,
    warn_if_unused,
)
from sb3_offline.dromo.real_ratio import next_real_ratio
from sb3_offline.dromo.robustness import (
    Robustness,
    chi2_worst_weights,
    drawn_states,
    smoothing,
    spread_logs,
    stratified_variance,
    stratified_weights,
)
from sb3_offline.dromo.smoothness import lipschitz_hinge, squared_slopes, wasserstein_excess
from sb3_offline.networks.networks import Batch, Logs, SACNetworks


class DROMO(COMBO):
    """
    COMBO whose critics also pay for the spread of Q across actions: alpha sqrt(Var_{pi^f}(Q(s, .)) / n(s)), with
    pi^f = f pi_beta + (1 - f) pi (DROMO, Eq 13), or for its variance over all of d_f (``strict``, Eq 17). The term is a
    variance regulariser, not a pointwise lower bound.

    :param robustness: "std" is Eq 13. "chi2" is the worst case that Eq 13 approximates, E_rho Q over a chi-square ball of
        radius ``chi2_radius`` / n(s) around pi^f; Eq 13 has alpha = beta sqrt(``chi2_radius``). "wasserstein" lets rho move
        by W2 <= ``wasserstein_radius``, to first order: beta eps sqrt(E_rho \\|grad_{(s, a)} Q\\|^2).
    :param robust_weight: alpha of "std", 0.1 if not given; 0 is COMBO. n(s) is rescaled so that alpha n^{-1/2}, the weight on
        the spread, is alpha on average over the data. Over d_f it was 1.2 to 1.3 times that: rollouts visit rarer states.
    :param chi2_radius: Of "chi2", twice Duchi and Namkoong's. 0 is COMBO.
    :param wasserstein_radius: eps of "wasserstein", in standard deviations of the observations and units of [-1, 1] of the
        actions. 0 is COMBO.
    :param strict: Eq 17, the standard deviation of Q over the batch of d_f, instead of Eq 13.
    :param robust_states: Estimate the term at so many states of the batch, drawn anew for each update; None takes all.
    :param visitation: How n(s) is counted: "knn" (default), "simhash", "constant", or "exact" for Discrete or one-hot states.
    :param count_scale: "reference" rescales n(s); "raw" leaves n = \\|D\\| d(s) as the paper writes it.
    :param lipschitz_weight: Weight of E_{d_f} (\\|grad_{(s, a)} Q\\| - kappa)_+^2, in the units of ``wasserstein_radius``.
    :param lipschitz_bound: kappa.
    :param auto_real_ratio: Experimental: move f, from ``real_ratio``, towards b^2 / (b^2 + sigma^2) at every rollout, with b
        the bias of the model's target and sigma the noise of the data's.
    :param actor_regularizer: "entropy" (SAC), or beside it "svpg" or "natural", see :mod:`sb3_offline.dromo.actor_rules`.
    :param actor_kwargs: Options of :class:`~sb3_offline.dromo.actor_rules.SVPG` or
        :class:`~sb3_offline.dromo.actor_rules.NaturalGradient`.
    :param rollout_policy: As in :class:`COMBO`; the paper's Algorithm 1 rolls out the target policy.
    :param behavior_kwargs: Of pi_beta: ``n_components``, ``hidden_sizes``; of its fit: ``n_steps``, ``batch_size``.
    """

    def __init__(
        self,
        *args: Any,
        robustness: Robustness = "std",
        robust_weight: float | None = None,
        chi2_radius: float | None = None,
        wasserstein_radius: float | None = None,
        strict: bool = False,
        robust_states: int | None = 64,
        visitation: VisitationMode | None = None,
        count_scale: CountScale = "reference",
        lipschitz_weight: float = 0.0,
        lipschitz_bound: float | None = None,
        auto_real_ratio: bool = False,
        actor_regularizer: ActorRegularizer = "entropy",
        actor_kwargs: Mapping[str, Any] | None = None,
        rollout_policy: RolloutPolicy = "target",
        behavior_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        sizes = {"robust_weight": robust_weight, "chi2_radius": chi2_radius, "wasserstein_radius": wasserstein_radius}
        beta = kwargs.get("conservative_weight")
        refuse_contradictions(robustness, strict, visitation, count_scale, behavior_kwargs, beta)
        size = check_size(robustness, sizes)
        warn_if_unused(behavior_kwargs, size)
        check_lipschitz(lipschitz_weight, lipschitz_bound)
        if actor_regularizer == "svpg" and kwargs.get("bc_warmup_steps", 0) > 0:
            raise ValueError("bc_warmup_steps clones into one actor; actor_regularizer='svpg' has many: leave one out.")
        rule = actor_rule(actor_regularizer, actor_kwargs or {})
        if auto_real_ratio and kwargs.get("execution") == "compile":
            raise ValueError("auto_real_ratio moves f, which torch.compile takes for a constant: execution='eager'.")
        self.robustness = robustness
        self.robust_weight = size if robustness == "std" else None
        self.chi2_radius = chi2_radius
        self.wasserstein_radius = wasserstein_radius
        self.strict = check_flag("strict", strict)
        self.robust_states = None if robust_states is None else check_count("robust_states", robust_states)
        self.visitation_mode: VisitationMode = visitation or ("constant" if strict else "knn")
        self.count_scale = count_scale
        self.lipschitz_weight = lipschitz_weight
        self.lipschitz_bound = lipschitz_bound
        self.auto_real_ratio = check_flag("auto_real_ratio", auto_real_ratio)
        self.actor_regularizer = actor_regularizer
        self.actor_kwargs = dict(actor_kwargs or {})
        split_behavior_kwargs(behavior_kwargs)  # refuses bad options now
        self.behavior_kwargs = dict(behavior_kwargs or {})
        super().__init__(*args, rollout_policy=rollout_policy, **kwargs)
        if isinstance(rule, SVPG) and self.batch_size < rule.n_particles:
            raise ValueError(f"n_particles={rule.n_particles} needs a batch_size of at least as many: each gets a row.")
        if self.draws_mixture and self.n_action_samples < rule.n_particles:
            raise ValueError(
                f"n_particles={rule.n_particles} needs n_action_samples of at least as many, got {self.n_action_samples}: "
                "the robust term asks each at each state."
            )

    actor_rule: Entropy
    behavior_policy: BehaviorPolicy
    visitation: VisitationCounts
    observation_scale: th.Tensor

    # --- set up ---

    def _create_aliases(self) -> None:
        self.register_state("actor_rule", actor_rule(self.actor_regularizer, self.actor_kwargs), saved=False)
        self.actor_rule.install(self.policy)
        super()._create_aliases()

    def _setup_model(self) -> None:
        super()._setup_model()
        observation_dim, exact = get_flattened_obs_dim(self.observation_space), self.visitation_mode == "exact"
        architecture, _ = split_behavior_kwargs(self.behavior_kwargs)
        behavior_policy = BehaviorPolicy(
            observation_dim, get_action_dim(self.action_space), generator=self.streams.cpu("behavior"), **architecture
        )
        self.register_state("behavior_policy", behavior_policy.to(self.device))
        if not hasattr(self, "visitation_seed"):  # else load() brought it: the cells of states stay what they were
            self.visitation_seed = self.streams.cpu("visitation").initial_seed()
        n_states = observation_dim if exact else None
        visitation = make_visitation(self.visitation_mode, count_scale=self.count_scale, n_states=n_states)
        self.register_state("visitation", visitation.to(self.device))
        self.register_state("observation_scale", th.ones(observation_dim, device=self.device), saved=False)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        observations: Any = self.replay_buffer.observations
        if self.uses_slopes:
            self.observation_scale = observation_moments(observations)[1].float()
        if self.robust_size == 0 or self.robustness == "wasserstein":
            return  # n(s) and pi_beta are not asked; COMBO, to the bit, without a robust term
        self.visitation.fit(observations, generator=th.Generator().manual_seed(self.visitation_seed))
        if not self.strict and not bool(self.behavior_policy.fitted):
            _, options = split_behavior_kwargs(self.behavior_kwargs)
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

    @property
    def robust_size(self) -> float:
        """Of the chosen robustness set; 0 is COMBO."""
        sizes = {"std": self.robust_weight, "chi2": self.chi2_radius, "wasserstein": self.wasserstein_radius}
        return sizes[self.robustness] or 0.0

    @property
    def draws_mixture(self) -> bool:
        """Whether the robust term draws actions of pi^f."""
        return self.robust_size > 0 and not self.strict and self.robustness != "wasserstein"

    @property
    def uses_slopes(self) -> bool:
        """Whether the loss holds gradients of Q in its inputs."""
        return self.lipschitz_weight > 0 or (self.robustness == "wasserstein" and self.robust_size > 0)

    def _log_behavior(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.logger.record(f"behavior_policy/{name}", value)
        self.logger.dump(step=step)

    def networks(self) -> DROMONetworks:
        parts = (self.behavior_policy, self.visitation, self.observation_scale)
        return DROMONetworks(self.policy, self.normalizer, *parts)

    # --- the penalty ---

    def draw_noise(self, batch: Batch) -> CQLNoise:
        noise = super().draw_noise(batch)
        if not self.draws_mixture:
            return noise
        states, n_states, n_actions = None, len(batch.rewards), self.n_action_samples
        if self.robust_states is not None and self.robust_states < n_states:
            states = drawn_states(n_states, self.robust_states, self.streams["robust"])
            n_states = self.robust_states
        return DROMONoise(
            **vars(noise),
            states=states,
            behavior=self.behavior_policy.draw_noise(n_states, n_actions, self.streams["robust"]),
            robust_policy=self.normals(n_states, n_actions, batch.actions.shape[1], stream="robust"),
        )

    def critic_penalty(self, nets: Any, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        penalty, logs = super().critic_penalty(nets, batch, noise, q)
        if self.robust_size > 0:
            robust, more = getattr(self, f"{self.robustness}_penalty")(nets, batch, noise, q)
            penalty, logs = penalty + robust, {**logs, **more, "robust_penalty": robust}
        if self.lipschitz_bound is not None:
            squared = squared_slopes(nets, batch.observations, batch.actions.unsqueeze(1), nets.observation_scale)
            hinge = self.lipschitz_weight * lipschitz_hinge(squared, self.lipschitz_bound).sum()
            penalty, logs = penalty + hinge, {**logs, "lipschitz_penalty": hinge, "q_slope": squared.mean().sqrt()}
        return penalty, logs

    def std_penalty(self, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        """alpha E_{s ~ d_f} sqrt(Var_{pi^f}(Q(s, .)) / n(s)) (Eq 13), or alpha sqrt(Var_{d_f}(Q) / n) (Eq 17)."""
        eps = smoothing(q)
        if self.strict:
            variance = q.var(dim=1, keepdim=True)  # (n_critics, 1)
        else:
            variance = self.mixture_variance(self.mixture_values(nets, batch, noise))  # (n_critics, S)
        spread = (variance + eps.square()).sqrt()  # sigma
        observations, q = (batch.observations, q) if self.strict else robust_rows(batch.observations, q, noise)
        radius = self.robust_size * nets.visits(observations).rsqrt()  # alpha / sqrt(n(s)): (S,)
        active = radius >= spread  # where the term flattens Q across actions
        return (radius * spread).mean(dim=1).sum(), spread_logs(spread, q, active)

    def chi2_penalty(self, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        """beta E_{s ~ d_f} (sup_{chi^2(q || pi^f) <= r(s)} E_q Q - E_{pi^f} Q), r(s) = radius / n(s)."""
        strata = self.mixture_values(nets, batch, noise)
        values, p = th.cat(strata, dim=-1), stratified_weights(*strata, self.real_ratio, self.n_particles)
        observations, q = robust_rows(batch.observations, q, noise)
        worst = chi2_worst_weights(values.detach(), p, self.robust_size / nets.visits(observations))
        excess = ((worst - p) * values).sum(dim=-1)  # (n_critics, S)
        spread = self.mixture_variance(strata).detach().sqrt()
        logs = spread_logs(spread, q, (worst == 0).any(dim=-1))  # where the ball leaves some action out
        return (self.current_conservative_weight() * excess.mean(dim=1)).sum(), logs

    def wasserstein_penalty(self, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        """beta eps sqrt(E_rho |grad_{(s, a)} Q|^2), to first order the worst rho within W2 <= eps."""
        observations = batch.observations[self.penalty_rows(batch)]
        actions, _ = nets.sample(observations, noise.policy[:, :1])
        slope = wasserstein_excess(squared_slopes(nets, observations, actions, nets.observation_scale))  # (n_critics,)
        return (self.current_conservative_weight() * self.robust_size * slope).sum(), {"q_slope": slope.mean()}

    def mixture_values(self, nets: DROMONetworks, batch: Batch, noise: DROMONoise) -> tuple[th.Tensor, th.Tensor]:
        """Q at the term's S states and actions of pi_beta, and of pi, actions detached: (n_critics, S, N) each."""
        observations = batch.observations if noise.states is None else batch.observations[noise.states]
        with th.no_grad():
            behavior = nets.sample_behavior(observations, noise.behavior)
            if self.n_particles == 1:
                policy, _ = nets.sample(observations, noise.robust_policy)
            else:  # pi is their mixture, whose variance is also that between them
                policy = nets.sample_particles(observations, noise.robust_policy)
        q = nets.q(observations, th.cat([behavior, policy], dim=1))
        return q[..., : behavior.shape[1]], q[..., behavior.shape[1] :]

    def mixture_variance(self, strata: tuple[th.Tensor, th.Tensor]) -> th.Tensor:
        """Var_{pi^f}(Q(s, .)), of :meth:`mixture_values`: (n_critics, S)."""
        return stratified_variance(*strata, self.real_ratio, self.n_particles)

    @property
    def n_particles(self) -> int:
        """Actors whose equal mixture is the policy."""
        return self.actor_rule.n_particles

    # --- the actor, and f ---

    def descend(self, loss: th.Tensor, nets: SACNetworks, batch: Batch) -> Logs:
        return self.actor_rule.step(self.actor, loss, nets.normalize(batch.observations))

    def capture_obstacle(self) -> str | None:
        if self.uses_slopes:
            return "the gradients of Q in its inputs are differentiated once more"
        if self.actor_regularizer != "entropy":
            return f"actor_regularizer={self.actor_regularizer!r} takes its own steps"
        return super().capture_obstacle()

    def before_update(self, callback: BaseCallback) -> None:
        super().before_update(callback)
        if self.auto_real_ratio and self.rollout_is_due:
            self.real_ratio = next_real_ratio(self)
            self.logger.record("train/real_ratio", self.real_ratio)


def robust_rows(observations: th.Tensor, q: th.Tensor, noise: DROMONoise) -> tuple[th.Tensor, th.Tensor]:
    """The states (S, obs) at which the robust term is estimated, and Q (n_critics, S) of their own actions."""
    return (observations, q) if noise.states is None else (observations[noise.states], q[:, noise.states])
