"""Bad data: every message names the data, the key and the row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetError, load_dataset
from tests.conftest import Arrays

Spaces = dict[str, Any]


def refused(arrays: Any, task_spaces: Spaces, message: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        load_dataset(arrays, **task_spaces)
    assert str(caught.value).startswith("arrays: ")


@pytest.mark.parametrize(
    ("key", "written", "message"),
    [
        ("rewards", "rewrads", "the key 'rewards' is missing. There is 'rewrads': rename it to 'rewards'."),
        ("observations", "observatons", "the key 'observations' is missing. There is 'observatons': rename it to"),
        ("actions", "Actionz", "the key 'actions' is missing. There is 'Actionz'"),
        (
            "next_observations",
            "next_observatoin",
            "the key 'next_observations' is missing. There is 'next_observatoin'",
        ),
        ("truncations", "timeoutz", "the key 'truncations' (or 'timeouts') is missing. There is 'timeoutz'"),
    ],
)
def test_misspelt_key(episodes: Arrays, task_spaces: Spaces, key: str, written: str, message: str) -> None:
    episodes[written] = episodes.pop(key)
    refused(episodes, task_spaces, message)


def test_missing_key(episodes: Arrays, task_spaces: Spaces) -> None:
    del episodes["actions"]
    refused(episodes, task_spaces, "the key 'actions' is missing. The keys are ['next_observations', 'observations',")


def test_missing_terminations_says_what_they_are(episodes: Arrays, task_spaces: Spaces) -> None:
    del episodes["terminations"]
    refused(episodes, task_spaces, "all False if it never does")


def test_keys_that_describe_are_ignored(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["infos/qpos"] = object()
    assert len(load_dataset(episodes, **task_spaces)) == 7


def test_key_given_twice(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["terminals"] = episodes["terminations"]
    refused(episodes, task_spaces, "terminations is given twice, as terminations and as terminals. Keep one")


def test_lengths(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["rewards"] = episodes["rewards"][:-2]
    refused(episodes, task_spaces, "differ in length: observations 7, actions 7, rewards 5,")


def test_empty(episodes: Arrays, task_spaces: Spaces) -> None:
    refused({name: array[:0] for name, array in episodes.items()}, task_spaces, "the data are empty")


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_not_finite(episodes: Arrays, task_spaces: Spaces, key: str, value: float) -> None:
    episodes[key][3] = value
    episodes[key][5:] = value
    remedy = "Leave next_observations out" if key == "next_observations" else "Drop such rows"
    if key == "next_observations" and np.isnan(value):
        episodes[key][6] = 0.0  # in the last row of an episode NaN stands for what was not logged
        refused(episodes, task_spaces, f"{key} hold NaN or inf (as float32) in 2 of 7 rows, first in row 3. {remedy}")
    else:
        refused(episodes, task_spaces, f"{key} hold NaN or inf (as float32) in 3 of 7 rows, first in row 3. {remedy}")


def test_actions_outside(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["actions"][1] = 2.25
    episodes["actions"][4] = -2.5
    refused(episodes, task_spaces, "in 2 of 7 rows, first in row 1, by up to 0.5.")


def test_actions_just_beyond_the_tolerance(episodes: Arrays, task_spaces: Spaces) -> None:
    episodes["actions"][2] = 2.0005  # span 4, so 4e-4 is tolerated
    refused(episodes, task_spaces, "in 1 of 7 rows, first in row 2")


def test_shapes(episodes: Arrays, task_spaces: Spaces) -> None:
    refused(dict(episodes, rewards=np.zeros((7, 2))), task_spaces, "rewards have shape (7, 2); one value a row is needed")
    refused(dict(episodes, observations=np.zeros((7, 3))), task_spaces, "observations have shape (7, 3), but the space")
    refused(dict(episodes, observations=np.zeros((7, 3))), task_spaces, "asks for (n, 2).")
    refused(dict(episodes, actions=np.zeros((7, 2))), task_spaces, "actions have shape (7, 2)")
    refused(dict(episodes, next_observations=np.zeros(7)), task_spaces, "next_observations have shape (7,)")
    refused(dict(episodes, rewards=3.0), task_spaces, "rewards is a single value")


def test_types(episodes: Arrays, task_spaces: Spaces) -> None:
    refused(dict(episodes, observations=np.array([[0, 1]] * 7, dtype=object)), task_spaces, "has dtype object")
    refused(dict(episodes, rewards=["a"] * 7), task_spaces, "rewards has dtype <U1, not numbers")
    refused(dict(episodes, observations=[[1.0]] * 6 + [[1.0, 2.0]]), task_spaces, "not one rectangular array")
    refused(dict(episodes, observations={"a": np.zeros(7)}), task_spaces, "observations is a mapping of arrays, but")
    refused(dict(episodes, terminations=np.array([0, 0, 0.5, 0, 0, 1, 0])), task_spaces, "first in row 2")


def test_valid_next_is_only_for_terminal_rows(episodes: Arrays, task_spaces: Spaces) -> None:
    valid = np.ones(7, dtype=bool)
    valid[5] = False
    refused(dict(episodes, valid_next=valid), task_spaces, "valid_next is False on rows that are not terminal")


def test_discrete_against_continuous(episodes: Arrays, task_spaces: Spaces) -> None:
    discrete = {**task_spaces, "action_space": spaces.Discrete(3)}
    refused(episodes, discrete, "actions are float64, but the space Discrete(3) holds whole numbers")
    whole = dict(episodes, actions=np.array([0, 1, 2, 0, 1, 3, 3]))
    refused(whole, discrete, "actions leave the space Discrete(3) in 2 of 7 rows, first in row 5.")
    refused(whole, task_spaces, "actions are whole numbers (int64), but the action space is continuous")


def test_unsupported_space(episodes: Arrays, task_spaces: Spaces) -> None:
    refused(
        episodes,
        {**task_spaces, "observation_space": spaces.Dict(a=spaces.Discrete(2))},
        "observations live in Dict",
    )


def test_bounds_are_never_guessed(episodes: Arrays, task_spaces: Spaces) -> None:
    with pytest.raises(DatasetError, match=r"names no environment and no spaces.*env_id=.*observation_space="):
        load_dataset(episodes)
    with pytest.raises(DatasetError, match=r"env_id=.*action_space="):
        load_dataset(episodes, observation_space=task_spaces["observation_space"])


def test_unknown_env(episodes: Arrays, task_spaces: Spaces) -> None:
    with pytest.raises(DatasetError, match=r"env_id='Pendulm-v1' is not a registered.*Near it: Pendulum-v1"):
        load_dataset(episodes, env_id="Pendulm-v1")
    with pytest.raises(DatasetError, match=r"names Foreign-v0, which is not registered here"):
        load_dataset({**episodes, "env_id": "Foreign-v0"})
    data: Any = load_dataset({**episodes, "env_id": "Foreign-v0"}, **task_spaces)  # with spaces it can be trained on
    with pytest.raises(DatasetError, match="names no environment"):
        data.make_env()


def test_an_env_id_in_the_data_imports_nothing(episodes: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DatasetError, match="trap:Foreign-v0, which is not registered"):
        load_dataset({**episodes, "env_id": "trap:Foreign-v0"})


def test_spaces_must_agree_with_the_data(episodes: Arrays, task_spaces: Spaces) -> None:
    data: Any = load_dataset(episodes, **task_spaces)
    with pytest.raises(DatasetError, match=r"the action space of the environment, Box\(-1\.0.*that of the data"):
        load_dataset(data, action_space=spaces.Box(-1.0, 1.0, (1,), np.float32))
    with pytest.raises(DatasetError, match="the observation space of the environment"):
        load_dataset(data, observation_space=spaces.Box(-1.0, 1.0, (3,), np.float32))
    float32 = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert load_dataset(data, observation_space=float32).observation_space is float32


def test_metadata_must_be_readable(episodes: Arrays, task_spaces: Spaces) -> None:
    refused({**episodes, "metadata": "{"}, task_spaces, "metadata is not a JSON object")
    refused({**episodes, "metadata": {"reference_min_score": "low"}}, task_spaces, "reference_min_score is 'low'")


def test_unknown_kind_of_source() -> None:
    with pytest.raises(DatasetError, match="cannot be read from a float"):
        load_dataset(3.0)
