"""DROMO: distributionally robust offline model-based policy optimisation (Liu, Chen, Zhong)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, get_args

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_offline.arguments import check_flag
from sb3_offline.behavior.behavior_policy import BehaviorPolicy, observation_moments
from sb3_offline.behavior.visits import VisitationCounts
from sb3_offline.combo.combo import COMBO
from sb3_offline.combo.conservative import ModelConservative
from sb3_offline.common.model_based_sac import BootstrapPolicy
from sb3_offline.common.terms import Term
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dromo.actor_rules import RULES, ActorRegularizer, Entropy
from sb3_offline.dromo.networks import DROMONetworks
from sb3_offline.dromo.options import (
    Visitation,
    check_weight,
    read_visits,
    refuse_contradictions,
    refuse_old_spelling,
    respelled,
    split_behavior_kwargs,
    warn_if_unused,
)
from sb3_offline.dromo.real_ratio import BOUNDS, AutoRealRatio, next_real_ratio
from sb3_offline.dromo.robust_term import RobustTerm
from sb3_offline.dromo.robustness import SETS, Robustness, RobustSet, Sampled
from sb3_offline.dromo.smoothness import Lipschitz, LipschitzTerm
from sb3_offline.execution.updates import Call
from sb3_offline.networks.networks import Batch, Logs, SACNetworks
from sb3_offline.options import kind_of, read_option


class DROMO(COMBO):
    """
    COMBO whose critics also pay for the spread of Q across actions: alpha sqrt(Var_{pi^f}(Q(s, .)) / n(s)), with
    pi^f = f pi_beta + (1 - f) pi (DROMO, Eq 13), or for its variance over all of d_f (``strict``, Eq 17). The term is a
    variance regulariser, not a pointwise lower bound.

    Options that are a dataclass can be written as a mapping too, as in YAML: ``{"kind": "chi2", "radius": 0.04}``.

    :param robustness: "std" is Eq 13; :class:`~sb3_offline.dromo.robustness.ChiSquare` ("chi2") the worst case that it
        approximates, :class:`~sb3_offline.dromo.robustness.CVaR` ("cvar") the worst share of pi^f's mass, and
        :class:`~sb3_offline.dromo.robustness.Wasserstein` moves rho;
        :class:`~sb3_offline.dromo.robustness.Std` is "std" at another number of states or actions.
    :param robust_weight: alpha of "std", 0.1 if not given; 0 is COMBO. n(s) is rescaled so that alpha n^{-1/2}, the weight on
        the spread, is alpha on average over the data. Over d_f it was 1.2 to 1.3 times that: rollouts visit rarer states.
    :param strict: Eq 17, the standard deviation of Q over the batch of d_f, instead of Eq 13.
    :param visitation: How n(s) is counted: "knn" (default), "simhash", "constant", "rnd", or "exact" for Discrete or one-hot
        states; or :class:`~sb3_offline.dromo.options.Visits`, which can leave n(s) = \\|D\\| d(s) as the paper writes it.
    :param real_ratio: f; "auto" or :class:`~sb3_offline.dromo.real_ratio.AutoRealRatio` moves it (experimental).
    :param lipschitz: :class:`~sb3_offline.dromo.smoothness.Lipschitz`, a penalty on slopes of Q; None for none.
    :param actor_regularizer: "entropy" (SAC), or beside it :class:`~sb3_offline.dromo.actor_rules.SVPG` ("svpg") or
        :class:`~sb3_offline.dromo.actor_rules.NaturalGradient` ("natural").
    :param bootstrap_policy: Who chooses the a' of the critics' target: the "current" policy, as in SAC, or its Polyak copy
        ("target"), as the paper has it beside the target critics.
    :param rollout_policy: As in :class:`COMBO`; the paper's Algorithm 1 rolls out the target policy.
    :param behavior_kwargs: Of pi_beta: ``n_components``, ``hidden_sizes``; of its fit: ``n_steps``, ``batch_size``.
    """

    recipe: ClassVar = {"rollout_policy": "target"}

    def __init__(
        self,
        *args: Any,
        robustness: Robustness = "std",
        robust_weight: float | None = None,
        strict: bool = False,
        visitation: Visitation | None = None,
        real_ratio: float | str | AutoRealRatio | Mapping[str, Any] = 0.5,
        lipschitz: Lipschitz | Mapping[str, Any] | None = None,
        actor_regularizer: ActorRegularizer = "entropy",
        bootstrap_policy: BootstrapPolicy = "current",
        behavior_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.strict = check_flag("strict", strict)
        visits = read_visits(visitation, strict)
        self.visitation_mode, self.count_scale = visits.mode, visits.count_scale
        self.robustness: RobustSet = read_option("robustness", robustness, SETS)
        kind = kind_of(self.robustness, SETS)
        beta = kwargs.get("conservative_weight")
        refuse_contradictions(kind, self.robustness, strict, visitation, behavior_kwargs, beta)
        self.robust_weight = check_weight(kind, self.robustness.weighed, robust_weight)
        warn_if_unused(behavior_kwargs, self.robust_size)
        self.lipschitz = None if lipschitz is None else read_option("lipschitz", lipschitz, {"lipschitz": Lipschitz})
        if bootstrap_policy not in get_args(BootstrapPolicy):
            raise ValueError(f"bootstrap_policy must be 'current' or 'target', got {bootstrap_policy!r}.")
        self.bootstrap_policy = bootstrap_policy
        self.actor_regularizer: Entropy = read_option("actor_regularizer", actor_regularizer, RULES)
        self.auto_real_ratio: AutoRealRatio | None = None
        if not isinstance(real_ratio, int | float):
            self.auto_real_ratio = read_option("real_ratio", real_ratio, {"auto": AutoRealRatio})
            real_ratio = self.auto_real_ratio.start
            if kwargs.get("execution") == "compile":
                raise ValueError("real_ratio='auto' moves f, which torch.compile takes for a constant: execution='eager'.")
        split_behavior_kwargs(behavior_kwargs)  # refuses bad options now
        self.behavior_kwargs = dict(behavior_kwargs or {})
        super().__init__(*args, real_ratio=real_ratio, **kwargs)
        if self.n_actor_rows < self.n_particles:
            raise ValueError(
                f"n_particles={self.n_particles} needs at least as many rows of a batch, each gets one: the actor has "
                f"{self.n_actor_rows} with batch_size={self.batch_size}. Take a larger one."
            )
        if isinstance(self.robustness, Sampled) and self.draws_mixture and self.robustness.n_actions < self.n_particles:
            raise ValueError(
                f"n_particles={self.n_particles} needs robustness['n_actions'] of at least as many, got "
                f"{self.robustness.n_actions}: the robust term asks each at each state."
            )

    behavior_policy: BehaviorPolicy
    visitation: VisitationCounts
    observation_scale: th.Tensor

    def make_terms(self) -> list[Term]:
        conservative = ModelConservative(self)
        terms: list[Term] = [conservative, RobustTerm(self, conservative)]
        return terms if self.lipschitz is None else [*terms, LipschitzTerm(self)]

    # --- options ---

    @property
    def robust_size(self) -> float:
        """Of the chosen robustness set; 0 is COMBO."""
        return self.robustness.size(self)

    @property
    def draws_mixture(self) -> bool:
        """Whether the robust term draws actions of pi^f."""
        return self.robust_size > 0 and not self.strict and self.robustness.draws

    @property
    def uses_slopes(self) -> bool:
        """Whether the loss holds gradients of Q in its inputs."""
        return self.lipschitz is not None or (self.robustness.obstacle is not None and self.robust_size > 0)

    @property
    def n_particles(self) -> int:
        """Actors whose equal mixture is the policy."""
        return self.actor_regularizer.n_particles

    def given_options(self) -> dict[str, Any]:
        options = super().given_options()
        if self.auto_real_ratio is not None and isinstance(self.real_ratio, float):
            options["real_ratio"] = replace(self.auto_real_ratio, start=self.real_ratio)
        return options

    @classmethod
    def check_arguments(cls, kwargs: Mapping[str, Any]) -> None:
        """Also say how the options of version 0.1.0 are written now."""
        refuse_old_spelling(cls.__name__, kwargs)
        super().check_arguments(kwargs)

    @classmethod
    def upgraded(cls, attributes: Mapping[str, Any]) -> dict[str, Any]:
        options = super().upgraded(attributes)
        if "actor_kwargs" not in options:
            return options
        new = respelled(options)  # of version 0.1.0
        robustness = read_option("robustness", new.get("robustness", options["robustness"]), SETS)
        if isinstance(robustness, Sampled):  # its actions were as many as the conservative term's
            robustness = replace(robustness, n_actions=options["n_action_samples"])
        options["robustness"] = robustness
        rule = new.get("actor_regularizer", options["actor_regularizer"])
        options["actor_regularizer"] = read_option("actor_regularizer", rule, RULES)
        options["lipschitz"] = Lipschitz(**new["lipschitz"]) if "lipschitz" in new else None
        options["auto_real_ratio"] = AutoRealRatio(start=options["real_ratio"]) if options["auto_real_ratio"] else None
        gone = ("chi2_radius", "wasserstein_radius", "robust_states", "lipschitz_weight", "lipschitz_bound", "actor_kwargs")
        return {name: value for name, value in options.items() if name not in gone}

    @property
    def n_actor_rows(self) -> int:
        """Rows of a batch at which the actor improves, at the least."""
        if self.actor_regularizer.states == "mix":
            return self.batch_size
        return self.batch_size - (self.n_real if self.auto_real_ratio is None else round(BOUNDS[1] * self.batch_size))

    # --- set up ---

    def _create_aliases(self) -> None:
        self.actor_regularizer.install(self.policy)
        super()._create_aliases()

    def _setup_model(self) -> None:
        super()._setup_model()
        observation_dim = get_flattened_obs_dim(self.observation_space)
        self.register_state("observation_scale", th.ones(observation_dim, device=self.device), saved=False)

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        super().prepare(dataset, progress_bar)
        if self.uses_slopes:
            observations: Any = self.replay_buffer.observations
            self.observation_scale = observation_moments(observations)[1].float()

    def networks(self) -> DROMONetworks:
        parts = (self.behavior_policy, self.visitation, self.observation_scale)
        return DROMONetworks(self.policy, self.normalizer, *parts)

    # --- the target's actions, the actor, and f ---

    def next_sample(self, nets: SACNetworks, batch: Batch, noise: Any) -> tuple[th.Tensor, th.Tensor]:
        if self.bootstrap_policy == "current":
            return super().next_sample(nets, batch, noise)
        return nets.sample_actor(self.actor_target, batch.next_observations, noise.next_action)

    def actor_step(self, nets: SACNetworks, batch: Batch, noise: Any, call: Call) -> Logs:
        """Eq 14, at the states of d_f or of rho."""
        if self.actor_regularizer.states == "model":
            noise = replace(noise, action=noise.action[batch.n_real :])
            batch = batch.imagined()
        return super().actor_step(nets, batch, noise, call)

    def descend(self, loss: th.Tensor, nets: SACNetworks, batch: Batch) -> Logs:
        return self.actor_regularizer.step(self.actor, loss, nets.normalize(batch.observations))

    def capture_obstacle(self) -> str | None:
        kind = kind_of(self.actor_regularizer, RULES)
        own_steps = None if kind == "entropy" else f"actor_regularizer={kind!r} takes its own steps"
        return super().capture_obstacle() or own_steps

    def before_update(self, callback: BaseCallback) -> None:
        super().before_update(callback)
        if self.auto_real_ratio is not None and self.rollout_is_due:
            self.real_ratio = next_real_ratio(self, self.auto_real_ratio.rate)
            self.logger.record("train/real_ratio", self.real_ratio)
