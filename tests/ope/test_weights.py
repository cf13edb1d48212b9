"""Importance sampling's arithmetic, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sb3_offline.ope import weights as w

ONE = np.ones((1, 2))


def test_whole_episodes() -> None:
    weights, returns = np.array([2.0, 0.5]), np.array([10.0, 2.0])
    assert w.ordinary(weights, returns) == pytest.approx(10.5)
    assert w.weighted(weights, returns, ONE) == pytest.approx([8.4])


def test_per_decision() -> None:
    episodes = w.Episodes(np.array([[2.0, 1.0], [0.5, 1.5]]), np.array([[1.0, 3.0], [2.0, 4.0]]), gamma=1.0)
    assert w.per_decision(episodes, ONE) == pytest.approx([6.0])
    assert w.per_decision_weighted(episodes, ONE) == pytest.approx([4.8])


def test_discounting_and_repeated_episodes() -> None:
    episodes = w.Episodes(np.array([[2.0, 1.0], [0.5, 1.5]]), np.array([[1.0, 3.0], [2.0, 4.0]]), gamma=0.5)
    assert w.per_decision(episodes, ONE) == pytest.approx([(3.5 + 4.0) / 2])
    assert w.per_decision(episodes, np.array([[2.0, 0.0]])) == pytest.approx([3.5])
    assert w.per_decision_weighted(episodes, np.array([[0.0, 2.0]])) == pytest.approx([2.0 + 0.5 * 4.0])


def test_an_ended_episode_keeps_its_weight() -> None:
    """Episode 0 ends after one step: its weight still counts below the second step's sum."""
    ratios = np.log(np.array([3.0, 1.0, 0.5]))
    table = w.cumulative_weights(ratios, np.array([1, 2]), clip=100.0)
    assert table == pytest.approx(np.array([[3.0, 3.0], [1.0, 0.5]]))
    episodes = w.Episodes(table, np.array([[1.0, 0.0], [2.0, 4.0]]), gamma=1.0)
    assert w.per_decision_weighted(episodes, ONE) == pytest.approx([5.0 / 4.0 + 2.0 / 3.5])


def test_weights_are_clipped_and_zero_stays_zero() -> None:
    with np.errstate(divide="ignore"):
        ratios = np.log(np.array([50.0, 50.0, 0.0, 9.0]))
    assert w.cumulative_weights(ratios, np.array([2, 2]), clip=100.0) == pytest.approx(np.array([[50.0, 100.0], [0.0, 0.0]]))


def test_doubly_robust() -> None:
    """A bandit: V + rho (r - Q) = 1.5 + 2 (2 - 1)."""
    one = np.array([[2.0]])
    assert w.doubly_robust(one, np.array([[2.0]]), np.array([[1.0]]), np.array([[1.5]]), gamma=0.9) == pytest.approx([3.5])


def test_doubly_robust_is_exact_where_q_is() -> None:
    """r = 1 for ever: Q = V = 10 at gamma 0.9, so every cut episode gives 10, whatever its weights."""
    rng = np.random.default_rng(0)
    weights = np.exp(rng.normal(size=(4, 6)).cumsum(axis=1))
    v = np.full((4, 7), 10.0)
    assert w.doubly_robust(weights, np.ones((4, 6)), v[:, :6], v, gamma=0.9) == pytest.approx(np.full(4, 10.0))


def test_effective_size() -> None:
    assert w.effective_size(np.ones(7)) == pytest.approx(7.0)
    assert w.effective_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert w.effective_size(np.zeros(3)) == 0.0
