from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces


@pytest.fixture
def episodes() -> dict[str, np.ndarray]:
    """Rows 0-2 terminate, rows 3-4 are cut, rows 5-6 run on. Observation i is (i, -i), its next one (i + .5, 0)."""
    index = np.arange(7, dtype=np.float64)
    return {
        "observations": np.stack([index, -index], axis=1),
        "actions": np.array([[-2.0], [-1.0], [0.0], [0.5], [1.0], [1.5], [2.0]]),
        "rewards": np.array([1.0, 2.0, 3.0, 10.0, 20.0, 100.0, 200.0]),
        "next_observations": np.stack([index + 0.5, 0 * index], axis=1),
        "terminations": np.array([0, 0, 1, 0, 0, 0, 0], dtype=bool),
        "truncations": np.array([0, 0, 0, 0, 1, 0, 0], dtype=bool),
    }


@pytest.fixture
def task_spaces() -> dict[str, spaces.Space]:
    """Spaces of those episodes: unbounded float64 observations, actions in +-2."""
    return {
        "observation_space": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "action_space": spaces.Box(-2.0, 2.0, (1,), np.float32),
    }
