"""The policy in the learned world: imagined episodes from logged first states, with the ensemble's disagreement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch as th

from sb3_offline.arguments import check_count
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import DynamicsConfig, EnsembleDynamics, TerminationFn, resolve_termination
from sb3_offline.dynamics.actions import encode_actions, encoded_action_dim
from sb3_offline.dynamics.world import build_dynamics, fit_world
from sb3_offline.ope.behavior import describes
from sb3_offline.ope.estimate import Estimate, Estimator, first_rows, student_interval
from sb3_offline.ope.policy import EvaluatedPolicy
from sb3_offline.training.rng import Streams

NEGLIGIBLE = 0.01  # the weight of what lies beyond the horizon

_fitted: WeakKeyDictionary[OfflineDataset, dict[str, EnsembleDynamics]] = WeakKeyDictionary()


@dataclass(kw_only=True)
class ModelBased(Estimator):
    """
    Each elite member plays its own episodes throughout; the interval is that of the members' means, and of the first states.
    Imagined rewards stay between the least and the greatest logged one. Vectors only.

    :param dynamics: a fitted model, such as a model-based algorithm's ``model.dynamics``; one is fitted to the data, once,
        if not given
    :param dynamics_kwargs: options of that fit, see :class:`~sb3_offline.dynamics.DynamicsConfig`
    :param n_starts: first states, spread over the log
    :param horizon: steps of an imagined episode; as many as weigh 1% if not given
    """

    name: ClassVar[str] = "ModelBased"
    dynamics: EnsembleDynamics | None = None
    dynamics_kwargs: Mapping[str, Any] | None = None
    n_starts: int = 100
    horizon: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_starts", self.n_starts)
        if self.horizon is not None:
            check_count("horizon", self.horizon)

    @property
    def steps(self) -> int:
        """Of an imagined episode."""
        if self.horizon is not None:
            return self.horizon
        return 1 if self.gamma == 0 else max(1, math.ceil(math.log(NEGLIGIBLE) / math.log(self.gamma)))

    def _estimate(self, policy: EvaluatedPolicy, dataset: OfflineDataset) -> Estimate:
        if not describes(dataset):
            raise ValueError(
                f"ModelBased: a dynamics model learns vectors, and the data hold {dataset.observation_space}. Use FQE."
            )
        model = self.dynamics if self.dynamics is not None else self._fit(dataset)
        config = DynamicsConfig.from_kwargs(self.dynamics_kwargs)
        ends = resolve_termination(
            config.termination, dataset.env_spec, bool(dataset.terminations.any()), model.termination_head
        )
        rows = first_rows(dataset)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(self.n_starts, len(rows))).astype(int))]
        returns, diagnostics = self._play(policy, dataset, model, ends, dataset.observations[rows])
        members = returns.mean(axis=1)
        of_starts = float(returns.mean(axis=0).var(ddof=1)) / len(rows) if len(rows) > 1 else 0.0
        interval = student_interval(members, self.confidence, extra_variance=of_starts)
        return self._result(members.mean(), interval, returns.mean(axis=0), diagnostics)

    def _fit(self, dataset: OfflineDataset) -> EnsembleDynamics:
        config = DynamicsConfig.from_kwargs(self.dynamics_kwargs)
        kept = _fitted.setdefault(dataset, {})
        key = f"{config} {self.seed}"
        if key not in kept:
            streams = Streams(self.seed, th.device("cpu"))
            width = int(np.prod(dataset.observation_space.shape))  # type: ignore[arg-type]
            model = build_dynamics(width, encoded_action_dim(dataset.action_space), config, streams, streams.device)
            fit_world(model, dataset, config, streams)
            kept[key] = model
        return kept[key]

    @th.no_grad()
    def _play(
        self,
        policy: EvaluatedPolicy,
        dataset: OfflineDataset,
        model: EnsembleDynamics,
        ends: TerminationFn,
        starts: np.ndarray,
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Discounted returns (members, starts), and what went wrong on the way."""
        n_members, n_starts = len(model.elites), len(starts)
        generator = th.Generator(device=model.device).manual_seed(self.seed)
        observations = np.asarray(dataset.observations, dtype=np.float32).reshape(len(dataset), -1)
        low, high = (
            th.as_tensor(bound, device=model.device) for bound in (observations.min(axis=0), observations.max(axis=0))
        )
        least, most = float(np.min(dataset.rewards)), float(np.max(dataset.rewards))
        states = th.as_tensor(starts, device=model.device).float().reshape(n_starts, -1).repeat(n_members, 1)
        members = model.elites.repeat_interleave(n_starts)
        returns = th.zeros(len(states), dtype=th.float64, device=model.device)
        alive = th.ones(len(states), dtype=th.bool, device=model.device)
        n_steps, n_outside, n_broken = 0, 0, 0
        shape = dataset.observation_space.shape or ()
        for step in range(self.steps):
            chosen = policy.actions(states.cpu().numpy().reshape(len(states), *shape))
            actions = th.as_tensor(_encoded(chosen, policy), device=model.device)
            inputs = model.normalize(states, actions).view(n_members, n_starts, -1)
            mean, logvar = model.networks(inputs, model.elites)
            std = (0.5 * logvar).exp().flatten(0, 1) * model.target_std
            noise = th.randn(std.shape, generator=generator, device=model.device)
            drawn = mean.flatten(0, 1) * model.target_std + model.target_mean + std * model.calibration(noise, members)
            following = states + drawn[:, :-1]
            ended = ends(states, actions, following)
            rewards = (drawn[:, -1] + model.end_reward(following, ended)).clamp(least, most)
            whole = th.isfinite(following).all(dim=1) & th.isfinite(rewards)
            n_broken += int((alive & ~whole).sum())
            alive &= whole
            returns += th.where(alive, self.gamma**step * rewards, 0.0)
            n_steps += int(alive.sum())
            n_outside += int((alive & ((following < low) | (following > high)).any(dim=1)).sum())
            alive &= ~ended
            if not bool(alive.any()):
                break
            states = th.where(alive[:, None], following, states)
        diagnostics = {"outside_share": n_outside / max(n_steps, 1), "broken_share": n_broken / len(states)}
        return returns.view(n_members, n_starts).cpu().numpy(), diagnostics


def _encoded(actions: np.ndarray, policy: EvaluatedPolicy) -> np.ndarray:
    return encode_actions(actions, policy.action_space).reshape(len(actions), -1)
