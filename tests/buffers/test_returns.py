"""Returns-to-go by hand."""

from __future__ import annotations

import numpy as np

from sb3_offline.buffers.returns import returns_to_go


def test_terminated_episode_is_summed() -> None:
    """Rewards 1, 2, 4 and gamma = 1/2: 4, then 2 + 2 = 4, then 1 + 2 = 3."""
    value = returns_to_go(np.array([1.0, 2.0, 4.0]), np.array([False, False, True]), np.array([2]), 0.5)
    np.testing.assert_allclose(value, [3.0, 4.0, 4.0])


def test_cut_episode_goes_on_as_it_went() -> None:
    """A constant reward 3 is worth 3/(1 - gamma) at every row, however few rows are left; a plain sum would fade to 3."""
    value = returns_to_go(np.full(4, 3.0), np.zeros(4, dtype=bool), np.array([3]), 0.9)
    np.testing.assert_allclose(value, 30.0)


def test_episodes_do_not_run_into_each_other() -> None:
    rewards = np.array([1.0, 1.0, 100.0])
    value = returns_to_go(rewards, np.array([False, True, False]), np.array([1, 2]), 0.5)
    np.testing.assert_allclose(value, [1.5, 1.0, 200.0])


def test_no_discount_horizon() -> None:
    np.testing.assert_allclose(returns_to_go(np.array([5.0, 7.0]), np.zeros(2, dtype=bool), np.array([1]), 0.0), [5.0, 7.0])
