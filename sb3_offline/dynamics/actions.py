"""Actions as the model of the world takes them: continuous ones in environment units, choices one-hot."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_offline.networks.choices import Choices


def encoded_action_dim(space: spaces.Space) -> int:
    """Length of an encoded action."""
    return get_action_dim(space) if isinstance(space, spaces.Box) else Choices(space).n


def encode_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Logged actions, as the space has them -> (n, action_dim) float32."""
    if isinstance(space, spaces.Box):
        return actions
    choices = Choices(space)
    return np.eye(choices.n, dtype=np.float32)[choices.numbers(actions)]
