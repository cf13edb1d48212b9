"""Arrays under other libraries' names, and flags that say otherwise where episodes end: read whole, or named."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetError, DatasetWarning, load_dataset
from sb3_offline.datasets.checks.keys import SYNONYMS
from sb3_offline.datasets.offline_dataset import MASK_NAMES
from tests.conftest import Arrays

Spaces = dict[str, Any]


@pytest.fixture
def log(episodes: Arrays) -> Arrays:
    """The episodes, whose last row is marked as a cut: lengths 3 (terminated), 2 and 2 (cut)."""
    episodes["truncations"][6] = True
    return episodes


@pytest.mark.parametrize("alias", [alias for alias, name in SYNONYMS.items() if name not in ("ends", "starts", *MASK_NAMES)])
def test_every_other_name_is_read(log: Arrays, task_spaces: Spaces, alias: str) -> None:
    expected = load_dataset(log, **task_spaces).fingerprint()
    log[alias] = log.pop(SYNONYMS[alias])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset(log, **task_spaces).fingerprint() == expected


@pytest.mark.parametrize("alias", [alias for alias, name in SYNONYMS.items() if name in MASK_NAMES])
def test_every_other_name_of_masks_is_read(log: Arrays, task_spaces: Spaces, alias: str) -> None:
    n = len(log["rewards"])
    rng = np.random.default_rng(0)
    log["actions"] = np.arange(n) % 3
    for name in MASK_NAMES:
        log[name] = rng.random((n, 3)) < 0.5
    log["action_masks"][np.arange(n), log["actions"]] = True
    log["next_action_masks"][:, 0] = True
    task_spaces["action_space"] = spaces.Discrete(3)
    expected = load_dataset(log, **task_spaces)
    assert np.array_equal(expected.action_masks, log["action_masks"])
    log[alias] = log.pop(SYNONYMS[alias])
    assert load_dataset(log, **task_spaces).fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    "names",
    [
        ("s", "a", "r", "s2", "terminal", "timeout"),
        ("State", "Action", "Reward", "new-obs"),
        ("Observations", "acts", "rews", "nextObs", "isTerminal", "isTruncated"),
        ("obs", "action", "reward", "nextObservations", "Terminated", "TimeLimit.truncated"),
    ],
)
def test_several_other_names(log: Arrays, task_spaces: Spaces, names: tuple[str, ...]) -> None:
    ours = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    renamed = log | {theirs: log[name] for name, theirs in zip(ours, names, strict=False)}
    for name in ours[: len(names)]:
        del renamed[name]
    assert load_dataset(renamed, **task_spaces).fingerprint() == load_dataset(log, **task_spaces).fingerprint()


@pytest.mark.parametrize("alias", [alias for alias, name in SYNONYMS.items() if name == "ends"])
def test_ends_beside_one_kind_of_end(log: Arrays, task_spaces: Spaces, alias: str) -> None:
    ends = log["terminations"] | log["truncations"]
    expected = load_dataset(log, **task_spaces)
    for left_out in ("terminations", "truncations"):
        arrays = {key: array for key, array in log.items() if key != left_out}
        data = load_dataset({**arrays, alias: ends}, **task_spaces)
        assert data.fingerprint() == expected.fingerprint()
        assert data.episode_lengths().tolist() == [3, 2, 2]


def test_dones_that_leave_out_the_time_limits(log: Arrays, task_spaces: Spaces) -> None:
    """D4RL's terminals do; beside timeouts both meanings of done give the same."""
    expected = load_dataset(log, **task_spaces).fingerprint()
    log["dones"] = log.pop("terminations")
    assert load_dataset(log, **task_spaces).fingerprint() == expected


def test_dones_alone_do_not_tell_ends_from_cuts(log: Arrays, task_spaces: Spaces) -> None:
    log["dones"] = log.pop("terminations") | log.pop("truncations")
    with pytest.raises(DatasetError, match="There is 'dones', which does not tell a task that ended from one that was cut"):
        load_dataset(log, **task_spaces)
    data = load_dataset({**log, "truncations": np.zeros(7, bool)}, **task_spaces)  # as the message says
    assert data.terminations.tolist() == [False, False, True, False, True, False, True]


def test_flags_of_first_rows(log: Arrays, task_spaces: Spaces) -> None:
    del log["truncations"]
    log["is_first"] = np.array([1, 0, 0, 1, 0, 1, 0])
    assert load_dataset(log, **task_spaces).episode_lengths().tolist() == [3, 2, 2]
    assert load_dataset(log, **task_spaces).truncations.tolist() == [False] * 4 + [True, False, False]


def test_rlds_steps(task_spaces: Spaces) -> None:
    """Two episodes: one terminates after two steps, one is cut after one. The last step of each holds an observation alone."""
    steps = {
        "observation": np.arange(10.0).reshape(5, 2),
        "action": np.array([[1.0], [2.0], [0.0], [-1.0], [0.0]]),
        "reward": np.array([5.0, 6.0, 0.0, 7.0, 0.0]),
        "is_first": np.array([1, 0, 0, 1, 0]),
        "is_last": np.array([0, 0, 1, 0, 1]),
        "is_terminal": np.array([0, 0, 1, 0, 0]),
    }
    data: Any = load_dataset(steps, **task_spaces)
    assert data.observations[:, 0].tolist() == [0, 2, 6]
    assert data.next_observations[:, 0].tolist() == [2, 4, 8]
    assert data.actions[:, 0].tolist() == [1, 2, -1]
    assert data.rewards.tolist() == [5, 6, 7]
    assert (data.terminations.tolist(), data.truncations.tolist()) == ([False, True, False], [False, False, True])
    assert data.valid_next.all()


def test_flags_of_that_name_on_rows_with_actions_are_plain_ends(log: Arrays, task_spaces: Spaces) -> None:
    del log["next_observations"]
    expected = load_dataset(log, **task_spaces).fingerprint()
    log["is_last"] = log.pop("truncations") | log["terminations"]
    log["is_terminal"] = log.pop("terminations")
    assert load_dataset(log, **task_spaces).fingerprint() == expected


def test_an_episode_with_its_last_observation(log: Arrays, task_spaces: Spaces) -> None:
    observations = np.arange(16.0).reshape(8, 2)
    parts = {key: log[key] for key in ("actions", "rewards")}
    data: Any = load_dataset({"observations": observations, **parts, "terminations": np.arange(7) == 6}, **task_spaces)
    assert data.observations[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert data.next_observations[:, 0].tolist() == [2, 4, 6, 8, 10, 12, 14]
    assert data.valid_next.all()
    with pytest.raises(DatasetError, match="differ in length: observations 8, actions 7"):  # whose is it, of several?
        load_dataset({"observations": observations, **parts, "terminations": log["terminations"]}, **task_spaces)


@pytest.mark.parametrize("container", ["dict", "npz", "hdf5"])
def test_arrays_that_are_not_read_are_named(log: Arrays, task_spaces: Spaces, container: str, tmp_path: Path) -> None:
    log |= {"wind": np.zeros(7), "episode": np.zeros((7, 1)), "gains": np.zeros(3), "infos/qpos": np.zeros((7, 4))}
    source: Any = log
    if container == "npz":
        source = tmp_path / "log.npz"
        np.savez(source, **log)
    elif container == "hdf5":
        source = tmp_path / "log.h5"
        with h5py.File(source, "w") as file:
            for key, array in log.items():
                file[key] = array
    with pytest.warns(DatasetWarning, match=r"not read: '(wind', 'episode|episode', 'wind)', with one entry a row") as caught:
        assert len(load_dataset(source, **task_spaces)) == 7
    assert len(caught) == 1


def test_ours_count_before_another_librarys(log: Arrays, task_spaces: Spaces) -> None:
    expected = load_dataset(log, **task_spaces).fingerprint()
    log["states"] = np.zeros((7, 9))  # a simulator's, say
    with pytest.warns(DatasetWarning, match="not read: 'states'"):
        assert load_dataset(log, **task_spaces).fingerprint() == expected
    del log["observations"]
    log["obs"] = np.zeros((7, 2))
    with pytest.raises(DatasetError, match=r"observations is given twice, as states and as obs. Keep one of them"):
        load_dataset(log, **task_spaces)


def test_columns_with_numbers_belong_in_one_array(log: Arrays, task_spaces: Spaces) -> None:
    columns = log.pop("observations")
    log |= {"observations_0": columns[:, 0], "observations_1": columns[:, 1]}
    with pytest.raises(DatasetError, match=r"'observations_0', 'observations_1': give 'observations' as one array"):
        load_dataset(log, **task_spaces)


def test_flags_of_what_goes_on(log: Arrays, task_spaces: Spaces) -> None:
    log["discount"] = 1.0 - log.pop("terminations")
    with pytest.raises(DatasetError, match="There is 'discount': give terminations, True where it is 0"):
        load_dataset(log, **task_spaces)


def test_groups_of_another_name(task_spaces: Spaces, tmp_path: Path) -> None:
    from gymnasium import spaces

    box = spaces.Box(-9, 9, (2,), np.float32)
    with h5py.File(tmp_path / "log.h5", "w") as file:
        for key in ("obs", "next_obs"):
            file[f"{key}/arm"], file[f"{key}/eye"] = np.zeros((4, 2)), np.ones((4, 2))
        file["actions"], file["rewards"], file["dones"] = np.zeros((4, 1)), np.zeros(4), np.zeros(4)
        file["timeouts"] = np.array([0, 1, 0, 1])
    joint: Any = load_dataset(
        tmp_path / "log.h5", observation_space=spaces.Dict(arm=box, eye=box), action_space=task_spaces["action_space"]
    )
    assert (joint.observations["eye"] == 1).all()
    assert joint.n_episodes == 2


@pytest.mark.parametrize("nested", [True, False])
def test_torchrls_next_level(log: Arrays, task_spaces: Spaces, nested: bool) -> None:
    """The outer flags tell of the time before the step, and are none of it."""
    expected = load_dataset(log, **task_spaces)
    inner = {
        "observation": log["next_observations"],
        "reward": log["rewards"][:, None],
        "terminated": log["terminations"][:, None],
        "truncated": log["truncations"][:, None],
        "done": (log["terminations"] | log["truncations"])[:, None],
    }
    before = np.zeros((len(log["rewards"]), 1), bool)
    outer = {"observation": log["observations"], "action": log["actions"], "done": before, "terminated": before}
    rows = outer | ({"next": inner} if nested else {f"next/{key}": value for key, value in inner.items()})
    assert load_dataset(rows, **task_spaces).fingerprint() == expected.fingerprint()


def test_d3rlpys_episode_terminals(log: Arrays, task_spaces: Spaces) -> None:
    """Version 1: of terminals, and of whatever else ended an episode."""
    rows: dict[str, Any] = dict(log)
    rows["episode_terminals"] = (rows.pop("truncations") | rows["terminations"]).astype(np.float32)
    assert load_dataset(rows, **task_spaces).fingerprint() == load_dataset(log, **task_spaces).fingerprint()
