"""Whatever holds numbers: frames and their columns, masked arrays, tensors, handles; and numbers that float32 cannot hold."""

from __future__ import annotations

import datetime
import decimal
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_offline.datasets import DatasetError, DatasetWarning, load_dataset
from tests.conftest import Arrays

pandas: Any = pytest.importorskip("pandas")

Spaces = dict[str, Any]


def frames() -> list[Any]:
    """Equal columns, 0..6 and the rest of division by 3, as various frames keep them."""
    polars: Any = pytest.importorskip("polars")
    numbers, flags = list(range(7)), [i % 3 > 0 for i in range(7)]
    return [
        pandas.DataFrame({"a": np.array(numbers, float), "b": flags}),
        pandas.DataFrame({"a": pandas.array(numbers, dtype="Int64"), "b": pandas.array(flags, dtype="boolean")}),
        pandas.DataFrame({"a": pandas.array(numbers, dtype="Float64"), "b": pandas.Series(flags, dtype=object)}),
        pandas.DataFrame({"a": [decimal.Decimal(i) for i in numbers], "b": pandas.Categorical([int(f) for f in flags])}),
        polars.DataFrame({"a": numbers, "b": flags}),
        polars.DataFrame({"a": [decimal.Decimal(i) for i in numbers], "b": flags}),
    ]


@pytest.mark.parametrize("number", range(6))
def test_columns_of_frames(episodes: Arrays, task_spaces: Spaces, number: int) -> None:
    frame = frames()[number]
    episodes["observations"] = frame
    data: Any = load_dataset(episodes, **task_spaces)
    assert data.observations.tolist() == [[i, i % 3 > 0] for i in range(7)]
    episodes["rewards"] = frame["a"]
    assert load_dataset(episodes, **task_spaces).rewards.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pandas.array([1, 2, None, 4, None, 6, 7], dtype="Int64"),
            r"column 'b' has missing .* 2 of 7 rows, first in row 2",
        ),
        (pandas.to_datetime(["2024-01-01"] * 7), r"column 'b' has dtype datetime64.* give seconds since the first one"),
        (pandas.Categorical(["x", "y"] * 3 + ["x"]), r"column 'b' has dtype object.* hold text, first in row 0 \('x'\)"),
        (
            pandas.Series([1.0, None, "?", 4, 5, 6, 7], dtype=object),
            r"column 'b' has missing .* 1 of 7 rows, first in row 1",
        ),
        ([datetime.date(2024, 1, 1)] * 7, r"column 'b' has dtype object.* hold a date, first in row 0"),
        (pandas.to_timedelta(range(7), unit="s"), r"column 'b' has dtype timedelta64.* are durations"),
    ],
)
def test_columns_that_hold_no_numbers(episodes: Arrays, task_spaces: Spaces, column: Any, message: str) -> None:
    episodes["observations"] = pandas.DataFrame({"a": np.arange(7.0), "b": column})
    with pytest.raises(DatasetError, match="observations, " + message):
        load_dataset(episodes, **task_spaces)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([1.0, 2, None, 4, 5, 6, 7], dtype=object), "hold a missing value, first in row 2"),
        (np.array([np.zeros(2)] * 5 + [np.zeros(3)] * 2, dtype=object), "differ in length, 2 in row 0 and 3 in row 5"),
        (np.array([1, 2, 3, 4, 5, 6, 7], dtype=object), r"numpy.asarray\(..., dtype=float\) makes them an array"),
        ([decimal.Decimal(1)] * 7, r"numpy.asarray\(..., dtype=float\) makes them an array"),
        ([[1.0]] * 6 + [[1.0, 2.0]], "its rows differ in length"),
        (["a"] * 7, "are text"),
        (np.zeros(7, complex), "real and imaginary parts"),
        ([{}] * 7, "hold a dict|are arrays in an array"),
    ],
)
def test_the_right_cause_is_named(episodes: Arrays, task_spaces: Spaces, value: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=f"^arrays: rewards .*({message})"):
        load_dataset({**episodes, "rewards": value}, **task_spaces)


def test_masks_are_not_passed_over(episodes: Arrays, task_spaces: Spaces) -> None:
    mask = np.zeros((7, 2), bool)
    mask[[1, 3], 0] = True
    masked = np.ma.masked_array(episodes["observations"], mask)
    with pytest.raises(DatasetError, match=r"observations has missing \(masked.* in 2 of 7 rows, first in row 1"):
        load_dataset({**episodes, "observations": masked}, **task_spaces)
    plain = np.ma.masked_array(episodes["observations"], False)
    expected = load_dataset(episodes, **task_spaces).fingerprint()
    assert load_dataset({**episodes, "observations": plain}, **task_spaces).fingerprint() == expected


def test_a_masked_next_observation_at_a_termination_was_not_logged(episodes: Arrays, task_spaces: Spaces) -> None:
    mask = np.zeros((7, 2), bool)
    mask[2] = True
    masked = np.ma.masked_array(episodes["next_observations"], mask)
    data: Any = load_dataset({**episodes, "next_observations": masked}, **task_spaces)
    assert data.valid_next.tolist() == [True, True, False] + [True] * 4


def test_tensors(episodes: Arrays, task_spaces: Spaces) -> None:
    expected = load_dataset(episodes, **task_spaces).fingerprint()
    tensors = {key: th.as_tensor(array) for key, array in episodes.items()}
    assert load_dataset(tensors, **task_spaces).fingerprint() == expected
    with pytest.raises(DatasetError, match=r"rewards is not one .*requires grad"):
        load_dataset({**episodes, "rewards": th.zeros(7, requires_grad=True)}, **task_spaces)


def test_hdf5_handles(episodes: Arrays, task_spaces: Spaces, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "log.h5", "w") as file:
        for key, array in episodes.items():
            file[key] = array
        handles = {key: file[key] for key in file}
        assert load_dataset(handles, **task_spaces).fingerprint() == load_dataset(episodes, **task_spaces).fingerprint()
        assert load_dataset(file, **task_spaces).fingerprint() == load_dataset(episodes, **task_spaces).fingerprint()
    with pytest.raises(DatasetError, match=r"its HDF5 file is closed: give the file's path"):
        load_dataset(handles, **task_spaces)
    with pytest.raises(DatasetError, match=r"closed"):
        load_dataset(file, **task_spaces)


# --- next observations that were not logged ---


def test_nan_at_a_termination_was_not_logged(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["next_observations"][2, 1] = np.nan
    data: Any = load_dataset(episodes, **task_spaces)
    assert data.terminations.tolist() == [False, False, True] + [False] * 4
    assert data.valid_next.tolist() == [True, True, False] + [True] * 4
    assert data.next_observations[2].tolist() == [2, -2]


def test_nan_at_a_cut_leaves_out_the_row(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["next_observations"][[4, 6]] = np.nan
    with pytest.warns(DatasetWarning, match="next_observations are NaN in 2 rows that end an episode without a termination"):
        data: Any = load_dataset(episodes, **task_spaces)
    assert data.rewards.tolist() == [1, 2, 3, 10, 100]
    assert data.episode_lengths().tolist() == [3, 1, 1]
    assert data.truncations.tolist() == [False, False, False, True, True]


def _objects(entries: list[Any]) -> np.ndarray:
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


@pytest.mark.parametrize("missing", [None, np.nan, pytest.param("pandas.NA", id="NA")])
@pytest.mark.parametrize("container", [list, tuple, _objects, "pandas", "polars", "pyarrow"])
def test_none_at_an_end_was_not_logged(episodes: Arrays, task_spaces: Spaces, container: Any, missing: Any) -> None:
    """As a buffer of DQN keeps it: the next observation of a terminal row is None."""
    missing = pytest.importorskip("pandas").NA if missing == "pandas.NA" else missing
    vectors = [row if number != 2 else missing for number, row in enumerate(episodes["next_observations"])]
    if container == "pandas":
        container = pytest.importorskip("pandas").Series
    elif isinstance(container, str):
        vectors = [None if row is missing else row.tolist() for row in vectors]
        container = pytest.importorskip(container).Series if container == "polars" else pytest.importorskip(container).array
    episodes["next_observations"] = container(vectors)
    data: Any = load_dataset(episodes, **task_spaces)
    assert data.terminations.tolist() == [False, False, True] + [False] * 4
    assert data.valid_next.tolist() == [True, True, False] + [True] * 4
    assert data.next_observations[2].tolist() == [2, -2]


@pytest.mark.parametrize("rows", [[[None, None]], [[1.0, None]]])
def test_none_within_a_row(episodes: Arrays, task_spaces: Spaces, rows: list[list[Any]]) -> None:
    expected = episodes["next_observations"].tolist()
    for written in (expected[:2] + rows + expected[3:], np.array(expected[:2] + rows + expected[3:], dtype=object)):
        data: Any = load_dataset({**episodes, "next_observations": written}, **task_spaces)
        assert data.valid_next.tolist() == [True, True, False] + [True] * 4


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("next_observations", r"hold NaN or inf \(as float32\) in 1 of 7 rows, first in row 1\. Leave next_observations out"),
        ("observations", r"holds a missing value, first in row 1"),
    ],
)
def test_none_inside_an_episode(episodes: Arrays, task_spaces: Spaces, key: str, message: str) -> None:
    episodes[key] = [row if number != 1 else None for number, row in enumerate(episodes[key])]
    with pytest.raises(DatasetError, match=message):
        load_dataset(episodes, **task_spaces)


FOUR_STATES: dict[str, Any] = {"observation_space": spaces.Discrete(4), "action_space": spaces.Box(-1, 1, (1,))}


def states(next_observations: Any) -> Arrays:
    """Two episodes of three rows among the states 0 to 3, which both end."""
    ends = np.array([0, 0, 1] * 2, bool)
    rows = {"observations": np.array([0, 1, 2, 2, 1, 0]), "actions": np.zeros((6, 1)), "rewards": np.arange(6.0)}
    return {**rows, "next_observations": next_observations, "terminations": ends, "truncations": ends & False}


@pytest.mark.parametrize("absent", [-1, -999, None])
def test_a_state_below_zero_at_an_end_was_not_logged(absent: Any) -> None:
    rows = states([1, 2, absent, 1, 0, absent])
    data: Any = load_dataset(rows, **FOUR_STATES)
    assert data.valid_next.tolist() == [True, True, False] * 2
    assert data.next_observations[~rows["terminations"]].tolist() == [1, 2, 1, 0]
    pairs = states(np.array([[1, 2, -1, 1, 0, -1]] * 2).T) | {"observations": np.stack([rows["observations"]] * 2, axis=1)}
    paired = load_dataset(pairs, observation_space=spaces.MultiDiscrete([4, 4]), action_space=FOUR_STATES["action_space"])
    assert paired.valid_next.tolist() == [True, True, False] * 2
    from_below = {**FOUR_STATES, "observation_space": spaces.Discrete(5, start=-1)}
    if absent == -1:  # that space has a state -1
        assert load_dataset(rows, **from_below).next_observations.tolist() == [1, 2, -1, 1, 0, -1]
    with pytest.raises(DatasetError, match=r"next_observations (leave the space|hold NaN|are float64).*"):
        load_dataset(states([1, absent, 0, 1, 0, absent]), **FOUR_STATES)


def test_a_state_that_there_is_not_at_an_end_is_refused() -> None:
    """It may be a state counted from elsewhere. No advice to count next observations otherwise than observations."""
    with pytest.raises(DatasetError, match=r"leave the space Discrete\(4\) in 2 of 6 rows, first in row 2\.") as caught:
        load_dataset(states([1, 2, 4, 1, 1, 4]), **FOUR_STATES)
    assert "write NaN" in str(caught.value)
    assert "give x -" not in str(caught.value)
    assert load_dataset(states([1, 2, np.nan, 1, 1, np.nan]), **FOUR_STATES).valid_next.tolist() == [True, True, False] * 2


def test_states_that_are_counted_from_one_are_in_both() -> None:
    from_one = states(np.array([2, 3, 4, 2, 1, 3])) | {"observations": np.array([1, 2, 3, 4, 2, 1])}
    with pytest.raises(DatasetError, match=r"observations leave .* They are 1 to 4: give x - 1, of next_observations too, or"):
        load_dataset(from_one, **FOUR_STATES)
    both = {name: from_one[name] - 1 for name in ("observations", "next_observations")}
    assert load_dataset(from_one | both, **FOUR_STATES).observations.tolist() == [0, 1, 2, 3, 1, 0]


# --- float32 ---


def warned(arrays: Arrays, task_spaces: Spaces) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_dataset(arrays, **task_spaces)
    return [str(warning.message) for warning in caught]


def long(column: np.ndarray) -> Arrays:
    """One episode whose observations are noise and a column."""
    n = len(column)
    observations = np.column_stack([np.random.default_rng(0).normal(size=n), column])
    arrays = {"observations": observations, "actions": np.zeros((n, 1)), "rewards": np.zeros(n)}
    return {**arrays, "terminations": np.arange(n) == n - 1, "truncations": np.zeros(n, bool)}


def warned_of_table(arrays: Arrays, task_spaces: Spaces) -> list[str]:
    """The same, of a frame whose rows lie in reverse."""
    pa = pytest.importorskip("pyarrow")
    flat = {"noise": arrays["observations"][:, 0], "column": arrays["observations"][:, 1], "action": arrays["actions"][:, 0]}
    flat |= {name: arrays[name] for name in ("rewards", "terminations", "truncations")} | {"t": np.arange(len(flat["noise"]))}
    roles = {name: name for name in ("rewards", "terminations", "truncations")}
    columns = {"observations": ["noise", "column"], "actions": "action", "time": "t", **roles}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_dataset(pa.table({name: values[::-1] for name, values in flat.items()}), columns=columns, **task_spaces)
    return [str(warning.message) for warning in caught]


def test_a_frame_whose_columns_have_equal_names(episodes: Arrays, task_spaces: Spaces) -> None:
    expected = load_dataset(episodes, **task_spaces).fingerprint()
    frame = pandas.DataFrame(episodes["observations"], columns=["x", "x"])
    assert load_dataset({**episodes, "observations": frame}, **task_spaces).fingerprint() == expected


@pytest.mark.parametrize(
    "column",
    [
        1.7e9 + np.arange(6000.0),  # Unix seconds: steps of 128 in float32
        1.7e9 + 3600 * np.arange(6000.0) / 60,  # minutes over days
        np.arange(6000) + 10**10,  # whole numbers
        1e6 + 0.1 * np.random.default_rng(1).normal(size=6000),  # small about a large offset
    ],
)
def test_numbers_that_become_equal_are_named(task_spaces: Spaces, column: np.ndarray) -> None:
    after = len(np.unique(column.astype(np.float32)))
    for messages in (warned(long(column), task_spaces), warned_of_table(long(column), task_spaces)):
        assert len(messages) == 1
        assert "observations, dimension 1" in messages[0]
        assert f"{len(np.unique(column)):,} different values become {after:,}" in messages[0]


@pytest.mark.parametrize(
    "column",
    [
        np.arange(6000.0),  # steps of an episode
        np.random.default_rng(1).normal(size=6000),
        np.random.default_rng(1).normal(size=6000) * 1e20,
        1000 + np.random.default_rng(1).normal(size=6000),
        np.full(6000, 0.1),
        0.9 ** np.arange(6000.0),  # comes to rest
        1.0 + 0.9 ** np.arange(6000.0),
    ],
)
def test_numbers_that_float32_holds(task_spaces: Spaces, column: np.ndarray) -> None:
    assert warned(long(column), task_spaces) == []
    assert warned_of_table(long(column), task_spaces) == []


def test_rewards_that_become_equal_are_named(task_spaces: Spaces) -> None:
    arrays = long(np.arange(6000.0))
    arrays["rewards"] = 1e9 + np.random.default_rng(0).normal(size=6000)
    messages = warned(arrays, task_spaces)
    assert len(messages) == 1
    assert "rewards, dimension 0" in messages[0]
