"""The empirical MDP: what a dataset of state and action indices says, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sb3_offline.tabular import checks
from sb3_offline.tabular.checks import Array
from sb3_offline.tabular.mdp import FiniteMDP


@dataclass(frozen=True, eq=False)
class EmpiricalMDP:
    """
    Maximum-likelihood MDP of a dataset, with what the dataset knows of its own behaviour.

    :param mdp: transitions, rewards and terminations by counting
    :param pair_counts: visits n(s,a), shape (S, A)
    """

    mdp: FiniteMDP
    pair_counts: Array

    @property
    def counts(self) -> Array:
        """Visits n(s), shape (S,)."""
        return self.pair_counts.sum(axis=1)

    @property
    def d(self) -> Array:
        """The dataset distribution d(s,a) = n(s,a)/|D|, shape (S, A)."""
        return self.pair_counts / self.pair_counts.sum()

    @property
    def pi_beta(self) -> Array:
        """The behaviour policy n(s,a)/n(s), shape (S, A); uniform in states that were never visited."""
        uniform = np.full_like(self.pair_counts, 1 / self.pair_counts.shape[1])
        return np.divide(self.pair_counts, self.counts[:, None], out=uniform, where=self.counts[:, None] > 0)


def empirical_mdp(
    states: npt.ArrayLike,
    actions: npt.ArrayLike,
    rewards: npt.ArrayLike,
    next_states: npt.ArrayLike,
    dones: npt.ArrayLike,
    n_states: int,
    n_actions: int,
    gamma: float,
    initial: npt.ArrayLike | None = None,
    unvisited: FiniteMDP | None = None,
) -> EmpiricalMDP:
    """
    Count a dataset of transitions (s, a, r, s', done), each an array of shape (n,).

    :param dones: true terminations only; a time limit does not end the MDP
    :param initial: start-state distribution, shape (S,); by default the dataset's states, where rollouts start
    :param unvisited: the MDP whose rows stand where the dataset has none; by default such a pair earns 0 and ends
    :raises ValueError: for an empty dataset, arrays of different lengths, or an index out of range (with its row)
    """
    s = _indices("states", states, n_states)
    a = _indices("actions", actions, n_actions)
    s_next = _indices("next_states", next_states, n_states)
    reward = np.asarray(rewards, dtype=np.float64)
    alive = 1 - np.asarray(dones, dtype=np.float64)
    lengths = {len(column) for column in (s, a, s_next, reward, alive)}
    if lengths == {0} or len(lengths) != 1:
        raise ValueError(f"the dataset's columns need one common length of at least 1, got {sorted(lengths)}")

    shape = (n_states, n_actions)
    triples, reward_sum, alive_triples = np.zeros((*shape, n_states)), np.zeros(shape), np.zeros((*shape, n_states))
    np.add.at(triples, (s, a, s_next), 1.0)
    np.add.at(alive_triples, (s, a, s_next), alive)
    np.add.at(reward_sum, (s, a), reward)
    pair_counts = triples.sum(axis=2)
    seen = pair_counts > 0

    start = pair_counts.sum(axis=1) / len(s) if initial is None else checks.finite("initial", initial, (n_states,))
    base = _absorbing(n_states, n_actions, gamma, start) if unvisited is None else unvisited
    base_continues = np.ones_like(triples) if base.continues is None else base.continues
    visits = np.maximum(pair_counts, 1)
    mdp = FiniteMDP(
        transitions=np.where(seen[..., None], triples / visits[..., None], base.transitions),
        rewards=np.where(seen, reward_sum / visits, base.rewards),
        gamma=gamma,
        initial=start,
        continues=np.where(triples > 0, alive_triples / np.maximum(triples, 1), base_continues),
    )
    return EmpiricalMDP(mdp, pair_counts)


def _absorbing(n_states: int, n_actions: int, gamma: float, initial: Array) -> FiniteMDP:
    """Every action pays nothing and ends the MDP: all values are 0."""
    stay = np.repeat(np.eye(n_states)[:, None, :], n_actions, axis=1)
    return FiniteMDP(stay, np.zeros((n_states, n_actions)), gamma, initial, np.zeros_like(stay))


def _indices(name: str, value: npt.ArrayLike, size: int) -> npt.NDArray[np.int64]:
    index = np.asarray(value)
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"{name} must be a one-dimensional array of integers")
    wrong = (index < 0) | (index >= size)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{name}[{row}] = {index[row]} lies outside 0..{size - 1}")
    return index.astype(np.int64)
