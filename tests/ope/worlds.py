"""Small worlds whose values are known, and policies on them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets import DatasetInfo, OfflineDataset
from sb3_offline.tabular import FiniteMDP


class Tabular:
    """A stranger's policy: it has ``predict``, and acts by a table (S, A) of one-hot rows."""

    check_data = False  # some logs of these worlds are rows in any order

    def __init__(self, table: np.ndarray):
        self.table = table

    def predict(self, observation: Any, deterministic: bool = False, **_: Any) -> tuple[np.ndarray, None]:
        return (observation @ self.table).argmax(axis=1), None


def one_hot_log(mdp: FiniteMDP, behavior: np.ndarray, n_episodes: int, length: int, seed: int = 0) -> OfflineDataset:
    """Episodes of an MDP whose states are seen as one-hot vectors; each ends by a termination or is cut after ``length``."""
    rng = np.random.default_rng(seed)
    n_states, n_actions = mdp.rewards.shape
    continues = np.ones_like(mdp.transitions) if mdp.continues is None else mdp.continues
    rows: dict[str, list[Any]] = {name: [] for name in ("s", "a", "r", "n", "done", "cut")}
    for _ in range(n_episodes):
        state = rng.choice(n_states, p=mdp.initial)
        for step in range(length):
            action = rng.choice(n_actions, p=behavior[state])
            following = rng.choice(n_states, p=mdp.transitions[state, action])
            done = bool(rng.random() >= continues[state, action, following])
            row = (state, action, mdp.rewards[state, action], following, done, step == length - 1 and not done)
            for column, value in zip(rows.values(), row, strict=True):
                column.append(value)
            if done:
                break
            state = following
    eye = np.eye(n_states, dtype=np.float32)
    info = DatasetInfo("one-hot", spaces.Box(0.0, 1.0, (n_states,), np.float32), spaces.Discrete(n_actions))
    n = len(rows["s"])
    return OfflineDataset(
        info,
        observations=eye[rows["s"]],
        actions=np.array(rows["a"], dtype=np.int64),
        rewards=np.array(rows["r"], dtype=np.float32),
        next_observations=eye[rows["n"]],
        terminations=np.array(rows["done"]),
        truncations=np.array(rows["cut"]),
        valid_next=np.ones(n, dtype=bool),
    )
