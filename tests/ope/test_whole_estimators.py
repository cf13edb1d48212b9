"""The learned world and the doubly robust estimate from the log to the figure, on a task whose values are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetInfo, OfflineDataset
from sb3_offline.ope import DR, FQE, PDWIS, ModelBased

#: Three steps an episode, each worth its action, 0 or 1; the log's actions are as often one as the other.
LENGTH, GAMMA, N_EPISODES = 3, 0.9, 200
ALWAYS_1 = 1 + GAMMA + GAMMA**2


class Always:
    """A stranger's policy."""

    def __init__(self, action: int):
        self.action = action

    def predict(self, observation: Any, deterministic: bool = False, **_: Any) -> tuple[np.ndarray, None]:
        return np.full(len(observation), self.action), None


def three_steps() -> OfflineDataset:
    """States are the step, one-hot; after the third the episode is over."""
    n = LENGTH * N_EPISODES
    steps, eye = np.arange(n) % LENGTH, np.eye(LENGTH + 1, dtype=np.float32)
    actions = np.random.default_rng(0).integers(2, size=n)
    info = DatasetInfo("three steps", spaces.Box(0.0, 1.0, (LENGTH + 1,), np.float32), spaces.Discrete(2))
    return OfflineDataset(
        info,
        observations=eye[steps],
        actions=actions,
        rewards=actions.astype(np.float32),
        next_observations=eye[steps + 1],
        terminations=steps == LENGTH - 1,
        truncations=np.zeros(n, bool),
        valid_next=np.ones(n, bool),
    )


@pytest.mark.parametrize(("action", "value"), [(1, ALWAYS_1), (0, 0.0)])
def test_doubly_robust_from_the_log_to_the_value(action: int, value: float) -> None:
    q = FQE(n_steps=400, n_critics=1, batch_size=None, net_arch=(), learning_rate=0.03)
    estimate = DR(gamma=GAMMA, q=q).estimate(Always(action), three_steps())
    assert estimate.value == pytest.approx(value, abs=0.1)
    assert estimate.low - 0.05 <= value <= estimate.high + 0.05
    assert len(estimate.per_episode) == N_EPISODES
    # an episode of three random actions follows the policy once in eight
    assert 10 <= estimate.diagnostics["effective_episodes"] <= 45
    weighted = PDWIS(gamma=GAMMA).estimate(Always(action), three_steps())
    assert weighted.value == pytest.approx(value, abs=0.3)


@pytest.mark.parametrize(("action", "value"), [(1, ALWAYS_1), (0, 0.0)])
def test_the_learned_world_from_the_log_to_the_value(action: int, value: float) -> None:
    world = {"hidden_sizes": (32,), "n_members": 3, "n_elites": 2, "max_epochs": 60, "batch_size": 64, "calibration": "none"}
    after_three = {"termination": lambda _, __, following: following[:, LENGTH] > 0.5}
    estimator = ModelBased(gamma=GAMMA, n_starts=20, horizon=6, dynamics_kwargs={**world, **after_three})
    estimate = estimator.estimate(Always(action), three_steps())
    assert estimate.value == pytest.approx(value, abs=0.25)
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.diagnostics["broken_share"] == 0.0
