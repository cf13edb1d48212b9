"""What DROMO adds to COMBO: the robust term, with the counts of states and the behaviour policy that it asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim

from sb3_offline.arguments import OptionError
from sb3_offline.behavior.behavior_fit import behavior_optimizer, fit_behavior_policy
from sb3_offline.behavior.behavior_policy import BehaviorNoise, BehaviorPolicy
from sb3_offline.behavior.discrete_behavior_policy import DiscreteBehaviorPolicy
from sb3_offline.behavior.visitation import make_visitation
from sb3_offline.common.offline_dqn import choose, one_hot
from sb3_offline.common.terms import Term
from sb3_offline.cql.conservative import Conservative
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dromo.networks import DROMONetworks
from sb3_offline.dromo.options import Visits, read_visits, split_behavior_kwargs
from sb3_offline.dromo.robustness import drawn_states, smoothing, spread_penalty
from sb3_offline.networks.choices import Choices
from sb3_offline.networks.networks import Batch, Logs


class CountingTerm(Term):
    """
    A term that asks how often states were visited, n(s), and what pi_beta does there. Both are the model's ``visitation`` and
    ``behavior_policy``, fitted once and saved with it. It goes by the model's ``visits`` and ``behavior_kwargs``.
    """

    name = "robust"
    architecture: ClassVar[tuple[str, ...]]  # options of pi_beta's network

    def make_behavior_policy(self, observation_dim: int, **architecture: Any) -> Any:
        """pi_beta, not fitted."""
        raise NotImplementedError

    def logged_actions(self) -> th.Tensor:
        """What pi_beta is fitted to, (n, ...)."""
        raise NotImplementedError

    @property
    def counts(self) -> bool:
        """Whether n(s) is asked."""
        return True

    @property
    def draws(self) -> bool:
        """Whether actions of pi_beta are drawn."""
        return not self.model.strict

    def setup(self) -> None:
        model = self.model
        observation_dim, mode = get_flattened_obs_dim(model.observation_space), model.visitation_mode
        architecture, _ = split_behavior_kwargs(model.behavior_kwargs, self.architecture)
        model.register_state("behavior_policy", self.make_behavior_policy(observation_dim, **architecture).to(model.device))
        if not hasattr(model, "visitation_seed"):  # else load() brought it: the cells of states stay what they were
            model.visitation_seed = model.streams.cpu("visitation").initial_seed()
        asked = vars(model).get("visitation")  # by load's arguments: else there is none yet
        if asked is not None and read_visits(asked, model.strict) != Visits(mode, model.count_scale):
            raise OptionError(f"visitation={asked!r} cannot take the place of {mode!r}, which was fitted: make a new model.")
        n_states = observation_dim if mode == "exact" else None
        visitation = make_visitation(mode, count_scale=model.count_scale, n_states=n_states)
        model.register_state("visitation", visitation.to(model.device))

    def prepare(self, dataset: OfflineDataset, progress_bar: bool) -> None:
        model = self.model
        observations = model.replay_buffer.observations
        if self.counts:
            model.visitation.fit(observations, generator=th.Generator().manual_seed(model.visitation_seed))
        if self.draws and not bool(model.behavior_policy.fitted):
            _, options = split_behavior_kwargs(model.behavior_kwargs, self.architecture)
            fit_behavior_policy(
                model.behavior_policy,
                behavior_optimizer(model.behavior_policy),
                observations,
                self.logged_actions(),
                generator=model.streams.cpu("behavior"),
                on_log=self._log,
                progress_bar=progress_bar,
                **options,
            )

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.model.logger.record(f"behavior_policy/{name}", value)
        self.model.logger.dump(step=step)


@dataclass(frozen=True)
class RobustNoise:
    """
    Actions of pi_beta, and normals (S, N, action_dim) for pi, at all B states of the batch, or at those that ``states`` (S,)
    names.
    """

    behavior: BehaviorNoise
    policy: th.Tensor
    states: th.Tensor | None = None


class RobustTerm(CountingTerm):
    """
    For continuous actions: what the model's ``robustness``, a set of :mod:`sb3_offline.dromo.robustness`, costs.

    :param conservative: COMBO's term, whose beta weighs the balls.
    """

    architecture = ("n_components", "hidden_sizes")

    def __init__(self, model: Any, conservative: Conservative):
        super().__init__(model)
        self.conservative = conservative

    @property
    def active(self) -> bool:
        return self.model.robust_size > 0

    @property
    def counts(self) -> bool:
        return self.model.robustness.counts

    @property
    def draws(self) -> bool:
        return self.model.draws_mixture

    def make_behavior_policy(self, observation_dim: int, **architecture: Any) -> BehaviorPolicy:
        action_dim, generator = get_action_dim(self.model.action_space), self.model.streams.cpu("behavior")
        return BehaviorPolicy(observation_dim, action_dim, generator=generator, **architecture)

    def logged_actions(self) -> th.Tensor:
        return self.model.replay_buffer.actions

    def draw_noise(self, batch: Batch, ahead: None) -> RobustNoise | None:
        if not self.draws:
            return None
        model, states, n_states = self.model, None, len(batch.rewards)
        n_actions, most = model.robustness.n_actions, model.robustness.n_states
        if most is not None and most < n_states:
            states, n_states = drawn_states(n_states, most, model.streams["robust"]), most
        behavior = model.behavior_policy.draw_noise(n_states, n_actions, model.streams["robust"])
        return RobustNoise(behavior, model.normals(n_states, n_actions, batch.actions.shape[1], stream="robust"), states)

    def loss(self, nets: DROMONetworks, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        penalty, logs = self.model.robustness.penalty(self, nets, batch, noise, q)
        return penalty, {**logs, "robust_penalty": penalty}

    def capture_obstacle(self) -> str | None:
        return self.model.robustness.obstacle if self.active else None

    # --- what the sets ask ---

    def beta(self) -> th.Tensor:
        """COMBO's weight."""
        return self.conservative.weight()

    def mixture_values(self, nets: DROMONetworks, batch: Batch, noise: Any) -> tuple[th.Tensor, th.Tensor]:
        """Q at the term's S states and actions of pi_beta, and of pi, actions detached: (n_critics, S, N) each."""
        drawn: RobustNoise = noise.terms[self.name]
        observations = batch.observations if drawn.states is None else batch.observations[drawn.states]
        with th.no_grad():
            behavior = nets.sample_behavior(observations, drawn.behavior)
            if self.model.n_particles == 1:
                policy, _ = nets.sample(observations, drawn.policy)
            else:  # pi is their mixture, whose variance is also that between them
                policy = nets.sample_particles(observations, drawn.policy)
        q = nets.q(observations, th.cat([behavior, policy], dim=1))
        return q[..., : behavior.shape[1]], q[..., behavior.shape[1] :]

    def own_rows(self, batch: Batch, noise: Any, q: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """The states (S, obs) at which the term is estimated, and Q (n_critics, S) of their own actions."""
        states = noise.terms[self.name].states
        return (batch.observations, q) if states is None else (batch.observations[states], q[:, states])


class ExactRobustTerm(CountingTerm):
    """For discrete actions, whose sums are exact: alpha E_{d_f} sqrt(Var / n(s)), over pi^f (Eq 13) or over d_f (Eq 17)."""

    architecture = ("hidden_sizes",)

    @property
    def active(self) -> bool:
        return self.model.robust_weight > 0

    def make_behavior_policy(self, observation_dim: int, **architecture: Any) -> DiscreteBehaviorPolicy:
        n_actions, generator = Choices(self.model.action_space).n, self.model.streams.cpu("behavior")
        return DiscreteBehaviorPolicy(observation_dim, n_actions, generator=generator, **architecture)

    def logged_actions(self) -> th.Tensor:
        buffer = self.model.replay_buffer
        every_row = th.arange(buffer.size(), device=self.model.device)
        return one_hot(buffer._rows("actions", every_row), Choices(self.model.action_space).n)

    def loss(self, nets: Any, batch: Batch, noise: None, q: th.Tensor) -> tuple[th.Tensor, Logs]:
        variance = q.var(dim=1, keepdim=True) if self.model.strict else self.action_variance(nets, batch)
        visits = nets.visits(batch.observations)
        penalty, logs = spread_penalty(self.model.robust_weight, variance, visits, smoothing(q), q)
        return penalty, {**logs, "robust_penalty": penalty}

    def action_variance(self, nets: Any, batch: Batch) -> th.Tensor:
        """Var_{pi^f}(Q(s, .)) at the states of d_f, exact: (n_critics, B)."""
        observations, f = batch.observations, self.model.real_ratio
        behavior = nets.behavior(observations) if batch.masks is None else nets.behavior(observations, batch.masks)
        pi_f = f * behavior + (1 - f) * choose(nets, observations, batch.masks)
        q = nets.q(observations)
        return (pi_f * (q - (pi_f * q).sum(dim=-1, keepdim=True)).square()).sum(dim=-1)
