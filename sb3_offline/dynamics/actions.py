"""Actions as the model of the world takes them: continuous ones in environment units, discrete ones one-hot."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim


def encoded_action_dim(space: spaces.Space) -> int:
    """Length of an encoded action."""
    return int(space.n) if isinstance(space, spaces.Discrete) else get_action_dim(space)


def encode_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Logged actions, (n, action_dim), or (n,) where they are discrete -> (n, action_dim) float32."""
    if not isinstance(space, spaces.Discrete):
        return actions
    return np.eye(int(space.n), dtype=np.float32)[actions - int(space.start)]
