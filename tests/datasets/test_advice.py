"""Each advice of the data's errors and warnings, followed to the letter: the data then load whole, and it is said no more."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import OfflineDataset, load_dataset
from sb3_offline.datasets.checks import check_dataset, gate
from tests.conftest import Arrays
from tests.datasets.test_successors import LENGTH, SPACES, N, linear

ENDS = np.arange(N) % LENGTH == LENGTH - 1
CUT_ROWS = int(ENDS.sum())
WIDER: dict[str, Any] = {**SPACES, "action_space": spaces.Box(-2, 2, (1,))}


@dataclass(frozen=True)
class Advice:
    """
    :param spoil: makes sound data faulty, in place
    :param says: the part of the message that is followed
    :param follow: does what it says, in place
    :param rows: that are left then
    """

    spoil: Callable[[Arrays], Any]
    says: str
    follow: Callable[[Arrays], Any]
    rows: int = N
    spaces: Arrays = field(default_factory=lambda: SPACES)
    terminations: int | None = None


def put(key: str, value: Any, rows: Any = slice(None)) -> Callable[[Arrays], None]:
    """:param value: of the rows, or a function of the arrays"""

    def change(arrays: Arrays) -> None:
        arrays[key] = np.array(arrays[key], dtype=None if isinstance(value, bool) else np.float64)
        arrays[key][rows] = value(arrays) if callable(value) else value

    return change


def drop(*keys: str) -> Callable[[Arrays], None]:
    return lambda arrays: [arrays.pop(key) for key in keys]


def rename(old: str, new: str) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({new: arrays.pop(old)})


def keep(rows: np.ndarray | Callable[[Arrays], np.ndarray]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        kept = rows(arrays) if callable(rows) else rows
        arrays.update({key: np.asarray(value)[kept] for key, value in arrays.items()})

    return change


def both(*changes: Callable[[Arrays], Any]) -> Callable[[Arrays], None]:
    return lambda arrays: [change(arrays) for change in changes] and None


def reorder(order: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({key: order(value) for key, value in arrays.items()})


def into_turns(x: np.ndarray) -> np.ndarray:
    return x.reshape(3, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def out_of_turns(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 3, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)


def with_reset_rows(arrays: Arrays) -> None:
    """After each end a row that leads from its observation to the next episode's first one, as in gymnasium."""
    places = np.flatnonzero(ENDS)[:-1]
    rows = {key: arrays[key][places] * 0 for key in ("rewards", "terminations", "truncations")}
    rows |= {"observations": arrays["next_observations"][places], "next_observations": arrays["observations"][places + 1]}
    rows["actions"] = arrays["actions"][places]
    arrays.update({key: np.insert(value, places + 1, rows[key], axis=0) for key, value in arrays.items()})


def not_after_ends(arrays: Arrays) -> np.ndarray:
    return ~np.append(False, (arrays["terminations"] | arrays["truncations"])[:-1].astype(bool))


def terminal(arrays: Arrays) -> None:
    arrays["terminations"], arrays["truncations"] = ENDS.copy(), np.zeros(N, bool)


def following(arrays: Arrays) -> np.ndarray:
    return np.roll(arrays["observations"], -1, axis=0)


def drop_and_cut(*bad: int) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays["truncations"][np.array(bad) - 1] = True
        keep(~np.isin(np.arange(N), bad))(arrays)

    return change


rng = np.random.default_rng(3)
NO_CUTS = put("truncations", False)
SHUFFLED = np.random.default_rng(0).permutation(N)

#: By the name of the gate's check, or of what loading refuses.
ADVICE: dict[str, Advice] = {
    # --- loading ---
    "NaN observations": Advice(
        put("observations", np.nan, [30, 31]),
        "Drop such rows and mark the rows before them as truncations",
        drop_and_cut(30, 31),
        N - 2,
    ),
    "NaN rewards": Advice(put("rewards", np.nan, 30), "Drop such rows and mark the rows before them", drop_and_cut(30), N - 1),
    "NaN next observations": Advice(
        put("next_observations", np.nan, 30), "Leave next_observations out", drop("next_observations"), N - CUT_ROWS
    ),
    "masked observations": Advice(
        lambda arrays: arrays.update(
            observations=np.ma.masked_array(arrays["observations"], np.arange(N * 3).reshape(N, 3) == 90)
        ),
        "Drop such rows and mark the rows before them as truncations",
        drop_and_cut(30),
        N - 1,
    ),
    "misspelt key": Advice(rename("rewards", "rewrads"), "rename it to 'rewards'", rename("rewrads", "rewards")),
    "numbered keys": Advice(
        lambda arrays: (
            arrays.update({f"observations_{i}": arrays["observations"][:, i] for i in range(3)}) or arrays.pop("observations")
        ),
        "give 'observations' as one array, such as numpy.column_stack of them",
        lambda arrays: arrays.update(observations=np.column_stack([arrays.pop(f"observations_{i}") for i in range(3)])),
    ),
    "dones alone": Advice(
        both(terminal, rename("terminations", "dones"), drop("truncations")),
        "give 'truncations'",
        lambda arrays: arrays.update(truncations=np.zeros(N, bool)),
        terminations=CUT_ROWS,
    ),
    "discounts": Advice(
        both(terminal, lambda arrays: arrays.update(discounts=1.0 - arrays.pop("terminations"))),
        "give terminations, True where it is 0",
        lambda arrays: arrays.update(terminations=arrays.pop("discounts") == 0),
        terminations=CUT_ROWS,
    ),
    **{
        f"negated {negated}": Advice(
            both(terminal, lambda arrays, key=negated: arrays.update({key: ~arrays.pop("terminations")})),
            f"There is {negated!r}: give terminations, True where it is 0",
            lambda arrays, key=negated: arrays.update(terminations=arrays.pop(key) == 0),
            terminations=CUT_ROWS,
        )
        for negated in ("nonterminals", "nonterminal", "non_terminals", "not_done", "notTerminated", "alive")
    },
    "not truncated": Advice(
        lambda arrays: arrays.update(not_truncated=~arrays.pop("truncations")),
        "There is 'not_truncated': give truncations, True where it is 0",
        lambda arrays: arrays.update(truncations=arrays.pop("not_truncated") == 0),
    ),
    "given twice": Advice(
        lambda arrays: arrays.update(terminals=arrays["terminations"]), "Keep one of them", drop("terminals")
    ),
    "unread": Advice(lambda arrays: arrays.update(wind=np.zeros(N)), "leave out the rest", drop("wind")),
    "numbers beyond float32": Advice(
        put("observations", lambda arrays: 1e9 + arrays["observations"]),
        "Subtract what does not change",
        put("observations", lambda arrays: arrays["observations"] - 1e9),
    ),
    "several environments": Advice(
        lambda arrays: arrays.update({key: np.stack(np.split(x, 3), axis=1) for key, x in arrays.items()}),
        r"numpy.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])",
        lambda arrays: arrays.update({k: np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]) for k, x in arrays.items()}),
    ),
    "objects": Advice(
        lambda arrays: arrays.update(rewards=arrays["rewards"].astype(object)),
        "numpy.asarray(..., dtype=float) makes them an array",
        lambda arrays: arrays.update(rewards=np.asarray(arrays["rewards"], dtype=float)),
    ),
    "dates": Advice(
        lambda arrays: arrays.update(rewards=np.datetime64("2024-01-01") + (1e3 * rng.random(N)).astype("m8[s]")),
        "give seconds since the first one",
        lambda arrays: arrays.update(rewards=(arrays["rewards"] - arrays["rewards"][0]) / np.timedelta64(1, "h")),
    ),
    "whole actions": Advice(
        lambda arrays: arrays.update(actions=np.round(arrays["actions"]).astype(int)),
        "convert them to float",
        lambda arrays: arrays.update(actions=arrays["actions"].astype(float)),
    ),
    "valid_next of a cut": Advice(
        lambda arrays: arrays.update(valid_next=~ENDS),
        "Give NaN as the next observation of such a row",
        both(drop("valid_next"), put("next_observations", np.nan, ENDS)),
        N - CUT_ROWS,
    ),
    # --- the gate: successors ---
    "broken": Advice(
        keep(~np.isin(np.arange(N), [30, 31, 70])),
        "mark each row that the next one does not continue as truncated",
        put("truncations", True, [29, 67]),
        N - 3,
    ),
    "unshifted": Advice(
        put("next_observations", lambda arrays: arrays["observations"]),
        "or leave next_observations out",
        drop("next_observations"),
        N - CUT_ROWS,
    ),
    "interleaved": Advice(
        reorder(into_turns),
        "x.reshape(-1, 3, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape) of every array",
        reorder(out_of_turns),
    ),
    "reset_rows": Advice(with_reset_rows, "Drop them: kept = ~numpy.append(False,", keep(not_after_ends)),
    "crossing": Advice(
        put("next_observations", following),
        "or leave next_observations out",
        drop("next_observations"),
        N - CUT_ROWS,
    ),
    "filled_ends": Advice(
        put("next_observations", 0.0, ENDS),
        "write NaN in such rows, which is read as not logged",
        put("next_observations", np.nan, ENDS),
        N - CUT_ROWS,
    ),
    "filled_ends of terminal rows": Advice(
        both(terminal, put("next_observations", 0.0, ENDS)),
        "set valid_next to False in such rows",
        lambda arrays: arrays.update(valid_next=~ENDS),
        terminations=CUT_ROWS,
    ),
    "repeated_ends": Advice(
        put("next_observations", lambda arrays: arrays["observations"][ENDS], ENDS),
        "write NaN in such rows",
        put("next_observations", np.nan, ENDS),
        N - CUT_ROWS,
    ),
    "jumps_at_ends": Advice(
        put("next_observations", 2 * rng.normal(size=(CUT_ROWS, 3)), ENDS),
        "or leave next_observations out",
        drop("next_observations"),
        N - CUT_ROWS,
    ),
    "unmarked_cuts": Advice(NO_CUTS, "Mark them as truncated", put("truncations", True, ENDS)),
    "unmarked_ends": Advice(
        both(drop("next_observations"), NO_CUTS), "Mark these rows as truncated", put("truncations", True, ENDS), N - CUT_ROWS
    ),
    "unrelated_rows": Advice(
        both(drop("next_observations"), keep(SHUFFLED)),
        "Bring the rows into the order of time",
        keep(np.argsort(SHUFFLED)),
        N - CUT_ROWS,
    ),
    # --- the gate: rows, episodes, actions, rewards ---
    "duplicates": Advice(
        lambda arrays: arrays.update({key: np.concatenate([x, x[:2000]]) for key, x in arrays.items()}),
        "Were parts concatenated twice? Drop them",
        keep(np.arange(N + 2000) < N),
    ),
    "no_next": Advice(
        both(terminal, lambda arrays: arrays.update(kept=arrays.pop("next_observations")[:, :2])),
        "Log them",
        lambda arrays: arrays.update(next_observations=linear()["next_observations"]) or arrays.pop("kept"),
        terminations=CUT_ROWS,
    ),
    "one_episode": Advice(
        both(drop("next_observations"), NO_CUTS),
        "mark their ends in terminations and truncations",
        put("truncations", True, ENDS),
        N - CUT_ROWS,
    ),
    "terminated_at_limit": Advice(
        terminal,
        "If they were cut by a time limit, mark them as truncations",
        lambda arrays: arrays.update(truncations=arrays["terminations"], terminations=np.zeros(N, bool)),
        terminations=0,
    ),
    "terminal_rows_go_on": Advice(
        lambda arrays: arrays.update(terminations=~ENDS, truncations=np.zeros(N, bool)),
        "If these are masks, which are 1 where the value goes on, give terminations = 1 - masks",
        lambda arrays: arrays.update(terminations=1 - arrays["terminations"]),
        terminations=CUT_ROWS,
    ),
    "changed places": Advice(
        lambda arrays: arrays.update(observations=arrays["observations"].T),
        "Rows and columns of observations have changed places: give x.T",
        lambda arrays: arrays.update(observations=arrays["observations"].T),
    ),
    "flags in one row": Advice(
        lambda arrays: arrays.update({key: arrays[key][None] for key in ("rewards", "terminations", "truncations")}),
        "Rows and columns of rewards and terminations and truncations have changed places: give x.T",
        lambda arrays: arrays.update({key: arrays[key].T for key in ("rewards", "terminations", "truncations")}),
    ),
    "all turned": Advice(
        lambda arrays: arrays.update({key: np.atleast_2d(value.T) for key, value in arrays.items()}),
        "have changed places: give x.T",
        lambda arrays: arrays.update({key: value.T for key, value in arrays.items()}),
    ),
    "wrong_scale": Advice(
        put("actions", 1.0, 0),
        "Actions are needed in the environment's own units: undo the scaling",
        put("actions", lambda arrays: 2 * arrays["actions"]),
        spaces=WIDER,
    ),
    "constant_observations": Advice(
        lambda arrays: arrays.update({key: arrays[key] * [1, 1, 0] for key in ("observations", "next_observations")}),
        "Leave them out",
        lambda arrays: arrays.update({key: arrays[key][:, :2] for key in ("observations", "next_observations")}),
        spaces={**SPACES, "observation_space": None},
    ),
    "observation_scales": Advice(
        lambda arrays: arrays.update({key: arrays[key] * [1, 1, 1e8] for key in ("observations", "next_observations")}),
        "or other units",
        lambda arrays: arrays.update({key: arrays[key] / [1, 1, 1e8] for key in ("observations", "next_observations")}),
    ),
}
#: What only other data, or an algorithm's option, can mend.
OTHER_DATA = {
    *("few_rows", "unused_actions", "constant_actions", "saturated_actions", "narrow_actions", "deterministic_policy"),
    *("constant_rewards", "sparse_rewards", "reward_scale"),
}


def spaces_for(advice: Advice, arrays: Arrays) -> Arrays:
    if advice.spaces["observation_space"] is not None:
        return advice.spaces
    return {**advice.spaces, "observation_space": spaces.Box(-np.inf, np.inf, arrays["observations"].shape[1:])}


def said(arrays: Arrays, advice: Advice) -> tuple[OfflineDataset | None, list[str]]:
    """The data, and all that loading and the gate say, errors and warnings alike."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = load_dataset(arrays, **spaces_for(advice, arrays))
        except ValueError as error:
            return None, [str(error)]
        return data, [*(str(warning.message) for warning in caught), *map(str, check_dataset(data))]


@pytest.mark.parametrize("name", ADVICE)
def test_following_an_advice_loads_the_data_whole(name: str) -> None:
    advice, arrays = ADVICE[name], linear()
    advice.spoil(arrays)
    data, messages = said(arrays, advice)
    assert any(advice.says in message for message in messages), messages
    if data is not None and name in {finding.check for finding in check_dataset(data)}:
        assert advice.says in next(finding.advice for finding in check_dataset(data) if finding.check == name)
    advice.follow(arrays)
    data, messages = said(arrays, advice)
    assert data is not None, messages
    assert not any(advice.says in message for message in messages), messages
    assert [finding for finding in check_dataset(data) if finding.severity == "error"] == []
    assert len(data) == advice.rows
    if advice.terminations is not None:
        assert int(data.terminations.sum()) == advice.terminations


def test_no_check_of_the_gate_is_left_out() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in sorted(Path(gate.__file__).parent.glob("*.py")))
    checks = set(re.findall(r'(?:_warning\(|_error\(|finding\()\s*(?:dataset,)?\s*"(\w+)"', source))
    assert checks - OTHER_DATA == {name for name in ADVICE if re.fullmatch(r"[a-z_]+", name) and "_" in name} | {
        "broken",
        "unshifted",
        "interleaved",
        "crossing",
        "duplicates",
    }


def test_rows_left_out_of_fragments_are_marked_in_their_sources() -> None:
    """A list of 60 fragments of 100 rows, of which two lack rows in the middle, and none marks a cut of its own."""
    arrays = linear(length=N)
    pieces = [slice(start, start + 100) for start in range(0, N, 100)]
    fragments = [{key: values[rows] for key, values in arrays.items() if key != "truncations"} for rows in pieces]
    for number, kept in ((2, np.r_[0:40, 45:100]), (7, np.r_[0:10, 30:60, 61:100])):
        fragments[number] = {key: values[kept] for key, values in fragments[number].items()}
    named = r"rows 239, 704, 734 \(row 39 of source 3, arrays; rows 9, 39 of source 8, arrays\)"
    found = check_dataset(load_dataset(fragments, **SPACES))
    (broken,) = [finding for finding in found if finding.severity == "error"]
    assert re.search(named, str(broken)), broken
    assert "as truncated, in its source's truncations" in broken.advice
    for number, rows in ((2, [39]), (7, [9, 39])):
        marks = np.zeros(len(fragments[number]["rewards"]), bool)
        marks[rows] = True
        fragments[number]["truncations"] = marks
    data = load_dataset(fragments, **SPACES)
    assert [finding for finding in check_dataset(data) if finding.severity == "error"] == []
    assert (len(data), data.n_episodes, bool(data.valid_next.all())) == (N - 26, 63, True)


def test_a_long_list_is_named_in_short() -> None:
    """And where more sources are concerned than are named, how many."""
    fragments = [linear(20, seed) for seed in range(300)]
    for fragment in fragments[10:20]:
        fragment["next_observations"][3] += 50.0
    data = load_dataset(fragments, **SPACES)
    assert data.info.dataset_id == "arrays + arrays + arrays + 297 more"
    (broken,) = [finding for finding in check_dataset(data) if finding.severity == "error"]
    assert broken.where == (
        "rows 203, 223, 243, ... (row 3 of source 11, arrays; row 3 of source 12, arrays; row 3 of source 13, arrays; "
        "10 of 300 sources are concerned)"
    )
