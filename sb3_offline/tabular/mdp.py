"""Finite MDPs: the container, and where they come from (Gymnasium's toy-text tables, or chance)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sb3_offline.tabular import checks
from sb3_offline.tabular.checks import Array


@dataclass(frozen=True, eq=False)
class FiniteMDP:
    """
    A finite discounted MDP.

    :param transitions: P(s'|s,a), shape (S, A, S), rows sum to 1
    :param rewards: expected reward r(s,a), shape (S, A)
    :param gamma: discount in [0, 1)
    :param initial: start-state distribution, shape (S,)
    :param continues: 1 - done for each (s, a, s'), shape (S, A, S), in [0, 1]; everything goes on if None
    :raises ValueError: for rows that do not sum to 1, a gamma outside [0, 1), or wrong shapes; names the entry
    """

    transitions: Array
    rewards: Array
    gamma: float
    initial: Array
    continues: Array | None = None

    def __post_init__(self) -> None:
        rewards = checks.finite("rewards", self.rewards)
        n_states, n_actions = rewards.shape
        cube = (n_states, n_actions, n_states)
        object.__setattr__(self, "rewards", rewards)
        object.__setattr__(self, "transitions", checks.stochastic("transitions", self.transitions, cube))
        object.__setattr__(self, "initial", checks.stochastic("initial", self.initial, (n_states,)))
        checks.discount(self.gamma)
        if self.continues is not None:
            continues = checks.non_negative("continues", self.continues, cube)
            if (continues > 1).any():
                raise ValueError(f"continues exceeds 1 at {checks.first(continues > 1)}")
            object.__setattr__(self, "continues", continues)

    @property
    def n_states(self) -> int:
        return self.rewards.shape[0]

    @property
    def n_actions(self) -> int:
        return self.rewards.shape[1]

    @cached_property
    def kernel(self) -> Array:
        """P(s'|s,a) (1 - done), shape (S, A, S): terminals multiply gamma by 1 - done."""
        return self.transitions if self.continues is None else self.transitions * self.continues


def from_toy_text(env: Any, gamma: float) -> FiniteMDP:
    """
    The exact MDP of a Gymnasium toy-text environment (FrozenLake, CliffWalking, Taxi).

    :param env: has ``unwrapped.P[s][a] = [(probability, next state, reward, done), ...]`` and, for the start,
        ``unwrapped.initial_state_distrib`` (state 0 is the start without it)
    :param gamma: discount in [0, 1)
    :raises TypeError: if the environment has no such table
    """
    table = getattr(env.unwrapped, "P", None)
    if not isinstance(table, dict):
        raise TypeError(f"{type(env.unwrapped).__name__} has no transition table `P`: it is not a toy-text environment")
    n_states, n_actions = len(table), len(table[0])
    transitions = np.zeros((n_states, n_actions, n_states))
    alive = np.zeros_like(transitions)
    rewards = np.zeros((n_states, n_actions))
    for state, actions in table.items():
        for action, outcomes in actions.items():
            for probability, next_state, reward, done in outcomes:
                transitions[state, action, next_state] += probability
                alive[state, action, next_state] += probability * (not done)
                rewards[state, action] += probability * reward
    continues = np.divide(alive, transitions, out=np.ones_like(alive), where=transitions > 0)
    initial = getattr(env.unwrapped, "initial_state_distrib", np.eye(n_states)[0])
    return FiniteMDP(transitions, rewards, gamma, initial, continues)


def random_mdp(
    rng: np.random.Generator,
    n_states: int = 6,
    n_actions: int = 3,
    gamma: float = 0.9,
    reward_range: tuple[float, float] = (0.0, 1.0),
) -> FiniteMDP:
    """An MDP with Dirichlet(1, ..., 1) transitions and start states, and uniform rewards."""
    return FiniteMDP(
        transitions=rng.dirichlet(np.ones(n_states), (n_states, n_actions)),
        rewards=rng.uniform(*reward_range, (n_states, n_actions)),
        gamma=gamma,
        initial=rng.dirichlet(np.ones(n_states)),
    )


def random_policy(rng: np.random.Generator, n_states: int, n_actions: int) -> Array:
    """Action probabilities, shape (S, A), each row Dirichlet(1, ..., 1)."""
    return rng.dirichlet(np.ones(n_actions), n_states)


def side_by_side(mdps: Sequence[FiniteMDP]) -> FiniteMDP:
    """K MDPs as one, each an island that cannot reach the others and is started in with probability 1/K."""
    sizes = [mdp.n_states for mdp in mdps]
    starts = np.cumsum([0, *sizes])
    n_states, n_actions, gamma = int(starts[-1]), mdps[0].n_actions, mdps[0].gamma
    if any(mdp.n_actions != n_actions or mdp.gamma != gamma for mdp in mdps):
        raise ValueError("MDPs side by side must share the number of actions and gamma")
    transitions = np.zeros((n_states, n_actions, n_states))
    continues = np.ones_like(transitions)
    for start, size, mdp in zip(starts, sizes, mdps, strict=False):
        block = slice(start, start + size)
        transitions[block, :, block] = mdp.transitions
        if mdp.continues is not None:
            continues[block, :, block] = mdp.continues
    rewards = np.concatenate([mdp.rewards for mdp in mdps])
    initial = np.concatenate([mdp.initial for mdp in mdps]) / len(mdps)
    return FiniteMDP(transitions, rewards, gamma, initial, continues)
