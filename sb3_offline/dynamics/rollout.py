"""Imagined episodes: a policy inside the model, on the model's device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch as th

from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.dynamics.reward import RewardFn
from sb3_offline.dynamics.termination import TerminationFn
from sb3_offline.execution.precision import Precision, precision_scope


@dataclass(frozen=True, eq=False)
class Rollout:
    """n imagined transitions from B start states, ordered by step; all in environment units, on the model's device."""

    observations: th.Tensor  # (n, observation_dim)
    actions: th.Tensor  # (n, action_dim)
    next_observations: th.Tensor  # (n, observation_dim)
    rewards: th.Tensor  # (n,)
    terminations: th.Tensor  # (n,) bool
    starts: th.Tensor  # (n,) which start state a transition descends from
    lengths: th.Tensor  # (B,) transitions made from each start state
    n_non_finite: int  # rows that ended because a prediction was NaN or infinite; that transition is left out


@th.no_grad()
def rollout(
    model: EnsembleDynamics,
    start_observations: th.Tensor,
    policy: Callable[[th.Tensor], th.Tensor],
    termination: TerminationFn,
    horizon: int,
    generator: th.Generator,
    precision: Precision = "float32",
    reward: RewardFn | None = None,
) -> Rollout:
    """
    Roll the model out from each start state, all at once, until ``horizon`` or the row's end: an ended row is never
    stepped again.

    :param start_observations: (B, observation_dim), on the model's device
    :param policy: (rows, observation_dim) -> (rows, action_dim), in environment units
    :param termination: judges the sampled next observation, see :func:`~sb3_offline.dynamics.resolve_termination`
    :param horizon: most steps of a row
    :param generator: source of the model's draws
    :param precision: of the matrix products of policy and model; the judgement of ``termination`` is in float32
    :param reward: what a transition pays, see :func:`~sb3_offline.dynamics.resolve_reward`; the model's forecast if None
    :raises ValueError: the model is not fitted, or the horizon is below 1
    """
    if not model.fitted:
        raise ValueError("The dynamics model is not fitted: call fit_ensemble (or the algorithm's fit_dynamics) first.")
    if horizon < 1:
        raise ValueError(f"The rollout horizon must be at least 1, got {horizon}.")
    observations = start_observations
    alive = th.arange(len(observations), device=observations.device)
    n_stepped = n_kept = 0
    steps: list[tuple[th.Tensor, ...]] = []
    for _ in range(horizon):
        if not len(alive):
            break
        with precision_scope(precision, model.device):
            actions = policy(observations).to(observations.dtype)
            sample = model.sample(observations, actions, generator)
        finite = th.isfinite(sample.next_observations).all(dim=1) & th.isfinite(sample.rewards)
        rows = finite.nonzero().squeeze(1)
        n_stepped, n_kept = n_stepped + len(alive), n_kept + len(rows)
        kept = (observations, actions, sample.next_observations, sample.rewards, alive)
        observations, actions, next_observations, rewards, alive = (column.index_select(0, rows) for column in kept)
        ended = termination(observations, actions, next_observations)
        if reward is None:
            rewards = rewards + model.end_reward(next_observations, ended)
        elif len(rows):
            rewards = reward(observations, actions, next_observations)
        steps.append((observations, actions, next_observations, rewards, ended, alive))
        going = (~ended).nonzero().squeeze(1)
        observations, alive = next_observations.index_select(0, going), alive.index_select(0, going)

    observations, actions, next_observations, rewards, terminations, starts = (
        th.cat(column) for column in zip(*steps, strict=True)
    )
    return Rollout(
        observations,
        actions,
        next_observations,
        rewards,
        terminations,
        starts,
        lengths=th.bincount(starts, minlength=len(start_observations)),
        n_non_finite=n_stepped - n_kept,
    )
