"""Next observations that were not logged where an episode ends: in tables, arrays and streams as if there were none at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetError, DatasetWarning, OfflineDataset, load_dataset, mapped, open_dataset
from sb3_offline.datasets.sources import converting
from sb3_offline.datasets.sources.streaming import checked_blocks
from sb3_offline.datasets.sources.tables import sizes

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pytestmark = pytest.mark.filterwarnings("ignore:.*spaces as the data suggest", "ignore:.*next_observations are NaN")

COLUMNS: dict[str, Any] = {
    "observations": "state",
    "actions": "valve",
    "rewards": "gain",
    "terminations": "failed",
    "episode": "run",
    "time": "t",
}
N = 20  # four runs of five rows; the odd ones fail at their end


def log(values: Any) -> Any:
    """A frame in which each row's successor is that of the following row, and none where a run ends."""
    run, t = np.repeat(np.arange(4), 5), np.tile(np.arange(5), 4)
    frame = pd.DataFrame({"run": run, "t": t, "valve": np.sin(np.arange(N)), "gain": np.arange(N) * 1.0})
    frame["failed"] = (t == 4) & (run % 2 == 1)
    frame["state"] = values
    frame["after"] = frame["state"].shift(-1).where(t < 4, None)
    return frame


KINDS: dict[str, Any] = {
    "numbers": np.cos(np.arange(N)),
    "nullable whole numbers": pd.array(np.arange(N) ** 2, "Int64"),
    "bools": pd.array(np.arange(N) % 3 == 0, "boolean"),
    "texts": [f"gear {number % 3}" for number in range(N)],
    "categories": pd.Categorical(["low", "high"] * 10, categories=["low", "high"], ordered=True),
    "lists": [np.array([number, -number], float) for number in range(N)],
    "decimals": pd.array(np.arange(N) / 8, pd.ArrowDtype(pa.decimal128(9, 3))),
}


def same(one: OfflineDataset, other: OfflineDataset) -> bool:
    return one.fingerprint() == other.fingerprint() and one.observation_space == other.observation_space


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_end_with_an_episode(
    kind: str, shuffled: bool, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without ``next_observations``: a failed run keeps its last row, of the others it is dropped."""
    if not kept:
        monkeypatch.setattr(sizes, "KEPT_BYTES", 0)
        monkeypatch.setattr(mapped, "BLOCK_ROWS", 3)
    frame = log(KINDS[kind])
    expected = load_dataset(frame, columns=COLUMNS)
    assert expected.valid_next.sum() == 16
    assert len(expected) == 18
    frame = frame.sample(frac=1, random_state=0) if shuffled else frame
    columns = {**COLUMNS, "next_observations": "after"}
    frame.to_parquet(tmp_path / "log.parquet", row_group_size=1)
    assert same(load_dataset(frame, columns=columns), expected)
    assert same(load_dataset(tmp_path / "log.parquet", columns=columns), expected)
    source = open_dataset(tmp_path / "log.parquet", columns=columns)
    converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    assert same(load_dataset(tmp_path / "log.mmap"), expected)


def test_other_writers_of_what_is_missing(tmp_path: Path) -> None:
    frame = log(KINDS["lists"])
    expected, columns = load_dataset(frame, columns=COLUMNS), {**COLUMNS, "next_observations": "after"}
    lists = [[np.nan, np.nan] if after is None else list(after) for after in frame["after"]]
    assert same(load_dataset(frame.assign(after=lists), columns=columns), expected)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(frame["state"])), 2)
    after = pa.array([None if after is None else list(after) for after in frame["after"]], pa.list_(pa.float64(), 2))
    table = pa.Table.from_pandas(frame.drop(columns=["state", "after"])).append_column("state", fixed)
    assert same(load_dataset(table.append_column("after", after), columns=columns), expected)
    assert same(load_dataset(pl.from_arrow(table.append_column("after", after)), columns=columns), expected)
    numbers = log(KINDS["numbers"])
    numbers.to_csv(tmp_path / "log.csv", index=False)  # empty texts
    assert same(load_dataset(tmp_path / "log.csv", columns=columns), load_dataset(numbers, columns=COLUMNS))


def test_choices_keep_their_type() -> None:
    frame = log(np.arange(N) % 6)
    given = {"observation_space": spaces.Discrete(6), "action_space": spaces.Box(-1, 1, (1,))}
    expected = load_dataset(frame, columns=COLUMNS, **given)
    assert same(load_dataset(frame, columns={**COLUMNS, "next_observations": "after"}, **given), expected)
    arrays = {
        "observations": frame["state"],
        "next_observations": frame["after"].astype(float),
        "actions": frame[["valve"]],
        "rewards": frame["gain"],
        "terminations": frame["failed"],
        "truncations": (frame["t"] == 4) & ~frame["failed"],
    }
    assert same(load_dataset(arrays, **given), expected)
    fractions = arrays["next_observations"].replace(3.0, 3.5)
    with pytest.raises(DatasetError, match="next_observations are float64, but the space Discrete"):
        load_dataset({**arrays, "next_observations": fractions}, **given)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["numbers", "texts", "lists"])
def test_inside_an_episode_it_is_refused_by_column_and_row(kind: str, stream: bool, shuffled: bool, tmp_path: Path) -> None:
    frame = log(KINDS[kind])
    frame.loc[[6, 12], "after"] = None
    frame = frame.sample(frac=1, random_state=0) if shuffled else frame
    first = int(np.flatnonzero(frame.index.isin([6, 12]))[0])
    source = open_dataset(frame, columns={**COLUMNS, "next_observations": "after"})
    with pytest.raises(DatasetError, match=rf"'after' holds no next observation in row {first} \(2 rows\)"):
        list(source.blocks(tmp_path)) if stream else source.load()
    marked = frame.assign(cut=frame.index.isin([6, 12]))
    assert len(load_dataset(marked, columns={**COLUMNS, "next_observations": "after", "truncations": "cut"})) == 16
    gaps = frame.drop(index=[7, 13])
    assert len(load_dataset(gaps, columns={**COLUMNS, "next_observations": "after"})) == 14


def test_what_holds_nothing_at_all_and_what_is_infinite() -> None:
    frame, columns = log(KINDS["numbers"]), {**COLUMNS, "next_observations": "after"}
    for nothing in (np.nan, None, pd.array([pd.NA] * N, "Float64")):
        with pytest.raises(DatasetError, match=r"'after'.* is empty in every row"):
            load_dataset(frame.assign(after=nothing), columns=columns)
    frame.loc[7, "after"] = np.inf
    with pytest.raises(DatasetError, match="'after' holds NaN or inf in row 7"):
        load_dataset(frame, columns=columns)
    with pytest.raises(DatasetError, match="'state' holds a missing value in row 4"):  # it is an observation, too
        load_dataset(frame.assign(state=frame["after"]), columns={**COLUMNS, "next_observations": "state"})


@pytest.mark.parametrize("kind", ["texts", "categories"])
def test_a_category_means_the_same_before_and_after(kind: str) -> None:
    """By hand: a state that is only entered, and one that is only left."""
    frame = log(["a", "b", "b", "b", "b"] * 4).assign(after=["b", "b", "b", "b", "c"] * 4, failed=False)
    if kind == "categories":
        frame = frame.astype({"state": pd.CategoricalDtype(["b", "a"]), "after": pd.CategoricalDtype(["c", "b"])})
    data = load_dataset(frame, columns={**COLUMNS, "next_observations": "after"})
    order = ["a", "b", "c"] if kind == "texts" else ["b", "a", "c"]
    assert data.info.card["categories"] == {"state": order, "after": order}
    assert [order[code] for code in data.observations.argmax(axis=1)] == list(frame["state"])
    assert [order[code] for code in data.next_observations.argmax(axis=1)] == list(frame["after"])


SPACES: dict[str, Any] = {"observation_space": spaces.Box(-np.inf, np.inf, (2,)), "action_space": spaces.Box(-1, 1, (1,))}


def random_rows(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Ends of every kind; of some the next observation is NaN, and always of the last."""
    kinds = rng.choice(3, size=n, p=[0.5, 0.25, 0.25])
    following = rng.normal(size=(n, 2))
    following[(kinds > 0) & (rng.random(n) < 0.6)] = np.nan
    following[-1] = np.nan
    return {
        "observations": rng.normal(size=(n, 2)),
        "next_observations": following,
        "actions": rng.uniform(-1, 1, (n, 1)),
        "rewards": rng.normal(size=n),
        "terminations": kinds == 1,
        "truncations": kinds == 2,
    }


def assert_streams_as_the_whole(rows: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    n = len(rows["rewards"])
    cuts = np.unique(np.r_[0, rng.integers(1, n, size=rng.integers(0, 30)), n])
    blocks = ({name: part[i:j] for name, part in rows.items()} for i, j in pairwise(cuts))
    whole = load_dataset(rows, **SPACES)
    streamed = list(checked_blocks(blocks, whole.info))
    for name in whole.array_names:
        joined = np.concatenate([getattr(part, name) for part in streamed])
        np.testing.assert_array_equal(joined, getattr(whole, name), err_msg=f"{name} {cuts}")


@pytest.mark.parametrize("seed", range(20))
def test_nan_does_not_depend_on_where_blocks_are_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_streams_as_the_whole(random_rows(rng, 40), rng)


@pytest.mark.parametrize("seed", range(10))
def test_first_rows_tell_of_ends_across_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 40)
    rows |= {"next_observations": rng.normal(size=(40, 2)), "is_first": np.append(True, rows.pop("truncations")[:-1])}
    assert_streams_as_the_whole(rows, rng)


def test_nan_inside_an_episode_is_refused_at_a_block_s_end_too() -> None:
    rows = {name: part for name, part in random_rows(np.random.default_rng(0), 40).items()}
    rows["terminations"][9] = rows["truncations"][9] = False
    rows["next_observations"][9] = np.nan
    blocks = ({name: part[i : i + 10] for name, part in rows.items()} for i in range(0, 40, 10))
    with pytest.raises(DatasetError, match=r"next_observations hold NaN or inf.*first in row 1.*counted from row 8"):
        list(checked_blocks(blocks, open_dataset({**rows}, **SPACES).info))


def test_blocks_of_other_arrays_are_refused() -> None:
    rows = random_rows(np.random.default_rng(0), 40)
    without = {name: part[20:] for name, part in rows.items() if name != "next_observations"}
    blocks = iter([{name: part[:20] for name, part in rows.items()}, without])
    with pytest.raises(DatasetError, match=r"only some of the episodes have all of .*next_observations"):
        list(checked_blocks(blocks, open_dataset(rows, **SPACES).info))


def write_npz(path: Path, rows: dict[str, Any]) -> Path:
    np.savez(path.with_suffix(".npz"), **rows)
    return path.with_suffix(".npz")


def write_hdf5(path: Path, rows: dict[str, Any]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.update(rows)
    return path.with_suffix(".h5")


@pytest.mark.parametrize("write", [write_npz, write_hdf5])
@pytest.mark.parametrize("steps", [False, True])
def test_a_stream_says_what_the_whole_says(write: Callable[[Path, dict[str, Any]], Path], steps: bool, tmp_path: Path) -> None:
    """Other names and what is not read; RLDS's steps, which are told by all rows, are read as what they are."""
    rng = np.random.default_rng(0)
    last = np.arange(1, 61) % 20 == 0
    rows = {"obs": rng.normal(size=(60, 2)), "act": rng.uniform(-1, 1, (60, 1)), "rew": rng.normal(size=60)}
    rows |= {"is_last": last, "is_terminal": last & (np.arange(60) < 30), "operator": np.arange(60), "three": np.arange(3)}
    if steps:
        rows["act"][last] = rows["rew"][last] = 0.0
    source = open_dataset(write(tmp_path / "log", rows), **SPACES)
    with pytest.warns(DatasetWarning, match="not read: 'operator', with one entry a row"):
        whole = source.load()
    with pytest.warns(DatasetWarning, match="not read: 'operator', with one entry a row") as caught:
        converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    assert len(caught) == 1
    data = load_dataset(tmp_path / "log.mmap")
    assert data.fingerprint() == whole.fingerprint()
    assert len(data) == (57 if steps else 58)
    assert data.info.card["reading"] == whole.info.card["reading"]


def test_a_warning_of_a_later_block_is_heard_once() -> None:
    rows = {name: part.copy() for name, part in random_rows(np.random.default_rng(0), 60).items()}
    rows["next_observations"] = np.nan_to_num(rows["next_observations"])
    cut = np.flatnonzero(rows["truncations"] & (np.arange(60) > 25))
    rows["next_observations"][cut] = np.nan
    blocks = ({name: part[i : i + 10] for name, part in rows.items()} for i in range(0, 60, 10))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(checked_blocks(blocks, open_dataset(rows, **SPACES).info))
    assert sum("next_observations are NaN" in str(warning.message) for warning in caught) == 1
