"""Held-out episodes and slices."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES


@pytest.fixture(scope="module")
def data() -> OfflineDataset:
    """40 episodes of 3 rows; episode e earns e; the last one's end is not said."""
    n = 120
    rows = np.arange(n, dtype=np.float32)[:, None]
    return load_dataset(
        {
            "observations": rows,
            "actions": np.zeros((n, 1), dtype=np.float32),
            "rewards": np.repeat(np.arange(40), 3).astype(np.float32) / 3,
            "next_observations": rows + 1,
            "terminations": np.zeros(n, dtype=bool),
            "truncations": (np.arange(n) % 3 == 2) & (np.arange(n) < n - 1),
        },
        observation_space=spaces.Box(-np.inf, np.inf, (1,)),
        action_space=spaces.Box(-1.0, 1.0, (1,)),
    )


def test_split_keeps_whole_episodes_apart(data: OfflineDataset) -> None:
    train, held_out = data.split(0.1, seed=0)
    assert (train.n_episodes, held_out.n_episodes) == (36, 4)
    assert (len(train), len(held_out)) == (108, 12)
    together = np.sort(np.concatenate([train.observations, held_out.observations]).flatten())
    assert np.array_equal(together, np.arange(120))
    assert set(held_out.episode_lengths()) == {3}


def test_split_is_stratified_by_return(data: OfflineDataset) -> None:
    """One of each ten neighbours in return, whatever the seed; which one, the seed says."""
    drawn = [data.split(0.1, seed)[1].episode_returns() for seed in range(5)]
    for returns in drawn:
        assert np.array_equal(np.sort(np.round(returns)) // 10, [0, 1, 2, 3])
    assert len({tuple(np.round(returns)) for returns in drawn}) > 1
    assert np.array_equal(data.split(0.1, 3)[1].observations, data.split(0.1, 3)[1].observations)


def test_an_end_that_was_not_said_is_one(data: OfflineDataset) -> None:
    first_and_last = data.take_episodes(np.array([39, 0]))
    assert np.array_equal(first_and_last.observations.flatten(), [0, 1, 2, 117, 118, 119])
    assert first_and_last.n_episodes == 2
    assert first_and_last.truncations[-1]


def test_slices(data: OfflineDataset) -> None:
    part = data[4:8]
    assert len(part) == 4
    assert np.array_equal(part.observations.flatten(), [4, 5, 6, 7])
    assert np.array_equal(part.truncations, [False, True, False, True])
    assert not data.truncations[7]
    assert np.shares_memory(part.observations, data.observations)
    assert len(data[-5:]) == 5
    assert all(len(getattr(data[:7], name)) == 7 for name in ARRAY_NAMES)


def test_what_cannot_be_split_is_refused(data: OfflineDataset) -> None:
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="fraction"):
            data.split(fraction)
    with pytest.raises(ValueError, match="whole episodes"):
        data[:3].split(0.5)
    assert data[:6].split(0.01)[1].n_episodes == 1
    with pytest.raises(TypeError, match="slice"):
        data[3]  # type: ignore[index]
    for empty in (slice(5, 5), slice(0, 10, 2)):
        with pytest.raises(ValueError, match="follow each other"):
            data[empty]
    with pytest.raises(ValueError, match="numbered"):
        data.take_episodes(np.array([40]))
