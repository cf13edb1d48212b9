"""OfflineDataset, and how arrays become one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetError, DatasetInfo, load_dataset, open_dataset
from tests.conftest import Arrays

Spaces = dict[str, Any]


def test_arrays_become_float32_and_keep_their_values(episodes: Arrays, task_spaces: Spaces) -> None:
    data: Any = load_dataset(episodes, **task_spaces)
    assert len(data) == 7
    for name in ("observations", "actions", "rewards", "next_observations"):
        assert getattr(data, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(data, name), episodes[name].astype(np.float32))
    assert data.terminations.dtype == data.truncations.dtype == bool
    assert data.valid_next.all()
    assert data.observation_space is task_spaces["observation_space"]
    assert data.env_spec is None


def test_episodes_have_their_ends_lengths_and_returns(episodes: Arrays, task_spaces: Spaces) -> None:
    data: Any = load_dataset(episodes, **task_spaces)
    assert data.n_episodes == 3
    assert data.episode_ends.tolist() == [2, 4, 6]
    assert data.episode_lengths().tolist() == [3, 2, 2]
    assert data.episode_returns().tolist() == [6.0, 30.0, 300.0]
    assert not data.truncations[6]  # reading the ends does not write them


@pytest.mark.parametrize("seed", range(5))
def test_sampled_episodes_are_whole_and_nested(episodes: Arrays, task_spaces: Spaces, seed: int) -> None:
    """Episodes of 3, 2 and 2 rows with returns 6, 30 and 300: 40 % of the rows is one of 3 or two of them."""
    data: Any = load_dataset(episodes, **task_spaces)
    part = data.sample_episodes(0.4, seed)
    returns = part.episode_returns().tolist()
    assert returns in ([6.0], [6.0, 30.0], [6.0, 300.0], [30.0, 300.0])
    smaller = data.sample_episodes(0.1, seed).episode_returns().tolist()
    assert len(smaller) == 1
    assert set(smaller) <= set(returns)
    assert data.sample_episodes(1.0, seed).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_outside_0_1_is_refused(episodes: Arrays, task_spaces: Spaces, fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction must lie in"):
        load_dataset(episodes, **task_spaces).sample_episodes(fraction, 0)


def test_without_next_observations_a_cut_episode_loses_its_last_row(episodes: Arrays, task_spaces: Spaces) -> None:
    del episodes["next_observations"]
    data: Any = load_dataset(episodes, **task_spaces)
    # Row 4 (cut) and row 6 (end of the data) have no next observation; 3 and 5 now end their episodes.
    assert data.observations[:, 0].tolist() == [0, 1, 2, 3, 5]
    assert data.next_observations.tolist() == [[1, -1], [2, -2], [2, -2], [4, -4], [6, -6]]
    assert data.valid_next.tolist() == [True, True, False, True, True]
    assert data.terminations.tolist() == [False, False, True, False, False]
    assert data.truncations.tolist() == [False, False, False, True, True]
    assert data.episode_returns().tolist() == [6.0, 10.0, 100.0]
    assert data.info.card["dropped_rows"].startswith("2:")


def test_without_next_observations_an_episode_of_one_cut_row_vanishes(task_spaces: Spaces) -> None:
    data: Any = load_dataset(
        {
            "observations": [[1, 1], [2, 2], [3, 3], [4, 4]],
            "actions": [[0.0]] * 4,
            "rewards": [1, 2, 3, 4],
            "terminations": [0, 0, 0, 1],
            "truncations": [0, 1, 1, 0],
        },
        **task_spaces,
    )
    assert data.observations[:, 0].tolist() == [1, 4]
    assert data.truncations.tolist() == [True, False]
    assert data.next_observations.tolist() == [[2, 2], [4, 4]]
    assert data.valid_next.tolist() == [True, False]


def test_nothing_left_is_an_error(task_spaces: Spaces) -> None:
    one_step = {"observations": [[1, 1]], "actions": [[0.0]], "rewards": [1], "terminals": [0], "timeouts": [1]}
    with pytest.raises(DatasetError, match="no row is left"):
        load_dataset(one_step, **task_spaces)


def test_without_ends_and_next_observations_it_warns(episodes: Arrays, task_spaces: Spaces) -> None:
    del episodes["next_observations"], episodes["truncations"]
    with pytest.warns(UserWarning, match="neither truncations nor next_observations"):
        data = load_dataset(episodes, **task_spaces)
    assert data.episode_lengths().tolist() == [3, 3]


def test_d4rl_names_are_aliases_and_a_termination_wins_over_a_cut(episodes: Arrays, task_spaces: Spaces) -> None:
    terminals = episodes.pop("terminations").astype(np.float32)
    episodes["terminals"] = terminals.reshape(-1, 1)
    episodes["timeouts"] = np.array([0, 0, 1, 0, 1, 0, 0])
    del episodes["truncations"]
    data: Any = load_dataset(episodes, **task_spaces)
    assert data.terminations.tolist() == [False, False, True, False, False, False, False]
    assert data.truncations.tolist() == [False, False, False, False, True, False, False]


def test_a_column_of_rewards_and_a_row_of_actions_are_reshaped(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["rewards"] = episodes["rewards"].reshape(-1, 1)
    episodes["actions"] = episodes["actions"].reshape(-1)
    data: Any = load_dataset(episodes, **task_spaces)
    assert data.rewards.shape == (7,)
    assert data.actions.shape == (7, 1)


def test_actions_within_rounding_are_clipped_and_the_given_array_is_left_alone(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["actions"] = episodes["actions"].astype(np.float32)
    episodes["actions"][6] = 2.0003  # span 4, so 4e-4 is tolerated
    data: Any = load_dataset(episodes, **task_spaces)
    assert data.actions[6] == 2.0
    assert episodes["actions"][6] == np.float32(2.0003)


def test_discrete_actions_and_images_keep_their_types() -> None:
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    arrays = {
        "observations": images,
        "actions": np.array([[0], [2], [1], [0]], dtype=np.int32),
        "rewards": [0, 0, 0, 1],
        "next_observations": images,
        "terminations": [0, 1, 0, 1],
    }
    pictures = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    data: Any = load_dataset(arrays, observation_space=pictures, action_space=spaces.Discrete(3))
    assert data.observations.dtype == np.uint8
    assert data.actions.dtype == np.int64
    assert data.actions.tolist() == [0, 2, 1, 0]


def test_discrete_observations_are_a_vector() -> None:
    arrays = {
        "observations": np.array([0, 1, 2, 0]),
        "actions": [0, 1, 0, 1],
        "rewards": [0.0] * 4,
        "terminations": [0, 0, 1, 1],
        "truncations": [0] * 4,
    }
    data: Any = load_dataset(arrays, observation_space=spaces.Discrete(3), action_space=spaces.Discrete(2))
    assert data.next_observations.tolist() == [1, 2, 2, 0]
    assert data.valid_next.tolist() == [True, True, False, False]


def test_fingerprint_follows_the_content(episodes: Arrays, task_spaces: Spaces) -> None:
    data: Any = load_dataset(episodes, **task_spaces)
    again = load_dataset({name: array.copy() for name, array in episodes.items()}, **task_spaces)
    assert data.fingerprint() == again.fingerprint()
    assert len(data.fingerprint()) == 64
    episodes["rewards"][3] += 1e-3
    assert load_dataset(episodes, **task_spaces).fingerprint() != data.fingerprint()


def test_normalized_score_is_linear_between_the_references() -> None:
    info = DatasetInfo("x", spaces.Discrete(1), spaces.Discrete(1), None, -1000.0, -200.0)
    assert info.normalized_score(-1000.0) == 0.0
    assert info.normalized_score(-200.0) == 100.0
    assert info.normalized_score(-400.0) == 75.0
    assert DatasetInfo("x", spaces.Discrete(1), spaces.Discrete(1)).normalized_score(1.0) is None


def test_summary_counts(episodes: Arrays, task_spaces: Spaces) -> None:
    summary = load_dataset(episodes, **task_spaces).summary()
    expected = {
        "dataset": "arrays",
        "env": None,
        "transitions": 7,
        "episodes": 3,
        "terminated_episodes": 1,
        "truncated_episodes": 1,
        "mean_return": 112.0,
        "min_return": 6.0,
        "max_return": 300.0,
        "mean_normalized_score": None,
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["mean_length"] == 2.33333


def test_several_sources_are_one_data_set_and_episodes_end_at_the_joints(episodes: Arrays, task_spaces: Spaces) -> None:
    loaded = load_dataset(episodes, **task_spaces)
    joint = load_dataset([episodes, loaded], **task_spaces)
    assert len(joint) == 14
    assert joint.episode_lengths().tolist() == [3, 2, 2, 3, 2, 2]
    assert joint.truncations[6]  # its first part ran on; the second is another episode
    assert joint.info.dataset_id == "arrays + arrays"
    assert not loaded.truncations[6]
    np.testing.assert_array_equal(joint.observations[7:], loaded.observations)


def test_several_sources_keep_references_only_if_they_agree(episodes: Arrays, task_spaces: Spaces) -> None:
    one = dict(episodes, metadata={"reference_min_score": 0, "reference_max_score": 10})
    other = dict(episodes, metadata={"reference_min_score": 0, "reference_max_score": 20})
    assert open_dataset([one, one], **task_spaces).info.normalized_score(5) == 50.0
    mixed = open_dataset([one, other], **task_spaces).info
    assert mixed.reference_max_score is None
    assert "different reference scores" in mixed.card["reference_note"]


def test_an_error_in_one_of_several_sources_says_which(episodes: Arrays, task_spaces: Spaces) -> None:
    bad = dict(episodes, rewards=episodes["rewards"].copy())
    bad["rewards"][3] = np.nan
    with pytest.raises(DatasetError, match=r"^source 2 of 3: arrays: rewards hold NaN or inf .* first in row 3"):
        load_dataset([episodes, bad, episodes], **task_spaces)
    with pytest.raises(DatasetError, match=r"^source 3 of 3: source 1 of 2: arrays: rewards hold NaN"):
        load_dataset([episodes, episodes, [bad, episodes]], **task_spaces)
    with pytest.raises(DatasetError, match=r"^source 2 of 2: gone\.npz: there is no such file"):
        open_dataset([episodes, "gone.npz"], **task_spaces)
    joint: Any = load_dataset([episodes, episodes], **task_spaces)
    assert [part["rows"] for part in joint.info.card["parts"]] == [7, 7]


def test_several_sources_must_share_their_spaces(episodes: Arrays, task_spaces: Spaces) -> None:
    loaded = load_dataset(episodes, **task_spaces)
    wider = load_dataset(
        episodes,
        observation_space=task_spaces["observation_space"],
        action_space=spaces.Box(-3.0, 3.0, (1,), np.float32),
    )
    with pytest.raises(DatasetError, match="arrays and source 2, arrays, cannot be one data set: their action spaces differ"):
        load_dataset([loaded, wider])
    with pytest.raises(DatasetError, match="empty list"):
        load_dataset([])


def test_a_loaded_data_set_passes_through_with_its_validity(episodes: Arrays, task_spaces: Spaces) -> None:
    del episodes["next_observations"]
    data: Any = load_dataset(episodes, **task_spaces)
    assert load_dataset(data).fingerprint() == data.fingerprint()


def test_env_id_gives_spaces_spec_and_references() -> None:
    arrays = {
        "observations": np.zeros((4, 3)),
        "actions": np.zeros((4, 1)),
        "rewards": np.zeros(4),
        "next_observations": np.zeros((4, 3)),
        "terminations": np.zeros(4),
        "truncations": [0, 1, 0, 1],
    }
    data: Any = load_dataset(arrays, env_id="Pendulum-v1")
    assert data.action_space == gym.make("Pendulum-v1").action_space
    assert data.env_spec.id == "Pendulum-v1"
    assert data.normalized_score(data.info.reference_max_score) == 100.0
    assert isinstance(data.make_env().unwrapped, type(gym.make("Pendulum-v1").unwrapped))
    named: Any = load_dataset({**arrays, "env_id": np.array("Pendulum-v1")})
    assert named.env_spec.id == "Pendulum-v1"
