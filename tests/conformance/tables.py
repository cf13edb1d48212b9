"""One-hot critics: a table in the place of the networks, under the very losses that training runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_offline import load_dataset
from sb3_offline.common.offline_sac import SACNoise
from sb3_offline.cql.conservative import ConservativeNoise
from sb3_offline.dromo.robust_term import RobustNoise
from sb3_offline.networks.networks import Batch

SEED_DATA = load_dataset(
    {
        "observations": np.zeros((4, 1)),
        "actions": np.zeros((4, 1)),
        "rewards": np.zeros(4),
        "next_observations": np.zeros((4, 1)),
        "terminations": np.array([False, True, False, True]),
        "truncations": np.zeros(4, dtype=bool),
    },
    observation_space=spaces.Box(-np.inf, np.inf, (1,)),
    action_space=spaces.Box(-1.0, 1.0, (1,)),
)


class TableNetworks:
    """
    Q(s, a) is an entry of a table (1, S, A); observations and actions are indices.

    Noise holds the actions themselves: an expectation over a policy is exact when the noise enumerates it. All actions
    count as uniform on [-1, 1], log-density -log 2.
    """

    def __init__(self, start: np.ndarray, visits: np.ndarray | None = None):
        self.table = th.tensor(start[None], dtype=th.float64, requires_grad=True)
        self.counts = None if visits is None else th.tensor(visits, dtype=th.float64)

    def q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.table[:, observations.long(), actions[..., 0].long()]

    def q_target(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.q(observations, actions).detach()  # never used: every row is terminal, its reward is y

    def sample(self, observations: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return noise, th.full(noise.shape[:2], -math.log(2.0), dtype=th.float64)

    def sample_behavior(self, observations: th.Tensor, noise: th.Tensor) -> th.Tensor:
        return noise

    def visits(self, observations: th.Tensor) -> th.Tensor:
        assert self.counts is not None
        return self.counts[observations[:, 0].long()]


def expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S, A) integer counts -> the state and the action of every row, (n,) each."""
    states, actions = np.nonzero(counts)
    repeats = counts[states, actions]
    return np.repeat(states, repeats), np.repeat(actions, repeats)


def full_batch(real: np.ndarray, model: np.ndarray, y_real: np.ndarray, y_model: np.ndarray) -> Batch:
    """Every pair as often as its count: real rows first. The reward of a terminal row is its target y."""
    (s_real, a_real), (s_model, a_model) = expand(real), expand(model)
    states = th.tensor(np.concatenate([s_real, s_model]), dtype=th.float64).unsqueeze(1)
    actions = th.tensor(np.concatenate([a_real, a_model]), dtype=th.float64).unsqueeze(1)
    rewards = th.tensor(np.concatenate([y_real[s_real, a_real], y_model[s_model, a_model]]))
    return Batch(states, actions, states, rewards, th.ones_like(rewards), n_real=len(s_real))


def enumerate_policy(policy_counts: np.ndarray, states: th.Tensor) -> th.Tensor:
    """(S, A) integer counts, all rows with one sum N -> the actions (B, N, 1) at the given states."""
    rows = np.stack([np.repeat(np.arange(len(row)), row) for row in policy_counts])
    return th.tensor(rows, dtype=th.float64)[states[:, 0].long()].unsqueeze(-1)


def cql_noise(next_action: th.Tensor, action: th.Tensor, *conservative: th.Tensor) -> SACNoise:
    """Of an update with a conservative term: SAC's, and the term's ``policy``, ``next_policy`` and ``uniform``."""
    return SACNoise(next_action, action, terms={"conservative": ConservativeNoise(*conservative)})


def with_robust(noise: SACNoise, behavior: Any, policy: th.Tensor) -> SACNoise:
    """The noise of COMBO with that of DROMO's term."""
    return replace(noise, terms={**noise.terms, "robust": RobustNoise(behavior, policy)})


def converge(parameters: list[th.Tensor], loss_of: Callable[[], th.Tensor]) -> None:
    """Move float64 parameters to where the loss is smallest, by L-BFGS."""
    optimizer = th.optim.LBFGS(
        parameters, max_iter=2000, tolerance_grad=1e-11, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> th.Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    optimizer.step(closure)


def minimise(model: Any, nets: TableNetworks, batch: Batch, noise: Any) -> np.ndarray:
    """The table (S, A) at which ``model.critic_loss`` is smallest, by L-BFGS to convergence in float64."""
    converge([nets.table], lambda: model.critic_loss(nets, batch, noise)[0])
    return nets.table.detach().numpy()[0]
