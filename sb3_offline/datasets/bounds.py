"""Continuous actions without bounds: those of the data take their place."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_offline.datasets.bounded import is_bound, is_bounded
from sb3_offline.datasets.errors import DatasetWarning
from sb3_offline.datasets.mapped import blocks
from sb3_offline.datasets.offline_dataset import OfflineDataset


def narrows(one: spaces.Space, other: spaces.Space) -> bool:
    """Whether ``one`` puts bounds where ``other`` has none, and is else no wider."""
    if not isinstance(one, spaces.Box) or not isinstance(other, spaces.Box) or one.shape != other.shape:
        return False
    return not is_bounded(other) and bool(np.all(one.low >= other.low) and np.all(one.high <= other.high))


def bounds_of_data(dataset: OfflineDataset, space: spaces.Box) -> spaces.Box:
    """
    The space with the data's range where it has no bounds, which a warning says: a policy cannot leave what was tried.

    :param space: of the actions, in the data's units
    """
    low, high = np.full(space.shape, np.inf), np.full(space.shape, -np.inf)
    for rows in blocks(len(dataset)):
        low = np.minimum(low, dataset.actions[rows].min(axis=0))
        high = np.maximum(high, dataset.actions[rows].max(axis=0))
    box = spaces.Box(
        np.where(is_bound(space.low), space.low, low).astype(np.float32),
        np.where(is_bound(space.high), space.high, high).astype(np.float32),
        dtype=np.float32,
    )
    warnings.warn(
        f"{dataset.info.dataset_id}: the actions live in {space}, without bounds; those of the data are taken, {box.low} to "
        f"{box.high}, so the policy cannot leave what was tried. Give action_space=, or an env with bounds, to say others.",
        DatasetWarning,
        stacklevel=2,
    )
    return box


def with_bounds(env: Any, space: spaces.Space | None) -> Any:
    """An env whose actions have no bounds, said to have those of ``space``; any other as it is."""
    if isinstance(space, spaces.Box) and narrows(space, env.action_space):
        return _Bounded(env, space) if isinstance(env, VecEnv) else TransformAction(env, _unchanged, space)
    return env


def _unchanged(action: Any) -> Any:
    return action


class _Bounded(VecEnvWrapper):
    """A vector of environments, said to have these bounds."""

    def __init__(self, venv: VecEnv, action_space: spaces.Box):
        super().__init__(venv, action_space=action_space)

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()
