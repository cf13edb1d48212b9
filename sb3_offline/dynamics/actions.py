"""Actions as the model of the world takes them: continuous ones in environment units, discrete ones one-hot."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_offline.datasets import OfflineDataset


def encoded_action_dim(space: spaces.Space) -> int:
    """Length of an encoded action."""
    return int(space.n) if isinstance(space, spaces.Discrete) else get_action_dim(space)


def encoded_actions(dataset: OfflineDataset) -> np.ndarray:
    """The data's actions, (n, action_dim) float32."""
    space = dataset.action_space
    if not isinstance(space, spaces.Discrete):
        return dataset.actions
    return np.eye(int(space.n), dtype=np.float32)[dataset.actions - int(space.start)]
