"""Logs in tables: every format and frame gives the same data, and what cannot be right is refused by column and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetError, DatasetWarning, OfflineDataset, load_dataset, open_dataset
from tests.datasets.mutations import assert_refused_or_well_formed

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pytestmark = pytest.mark.filterwarnings("ignore:.*spaces as the data suggest")

COLUMNS: dict[str, Any] = {
    "observations": ["temp", "flow"],
    "actions": ["valve"],
    "rewards": "yield",
    "terminations": "failed",
    "episode": "batch_id",
    "time": "t",
}


def plant(n_batches: int = 4, length: int = 5) -> Any:
    """Batches that fail at the end if their number is odd; every number is told by its batch and its time."""
    batch, t = np.repeat(np.arange(n_batches), length), np.tile(np.arange(length), n_batches)
    return pd.DataFrame(
        {
            "batch_id": batch,
            "t": t * 10.0,
            "temp": batch + t / 8,
            "flow": -t / 4,
            "valve": np.where(t % 2, 0.5, -0.5) * (batch + 1),
            "yield": batch * 100.0 + t,
            "failed": (t == length - 1) & (batch % 2 == 1),
        }
    )


def same(one: OfflineDataset, other: OfflineDataset) -> bool:
    return one.fingerprint() == other.fingerprint() and one.observation_space == other.observation_space


def test_episodes_of_a_table() -> None:
    """By hand: batches 0 and 2 are cut, so their last row has no next observation; 1 and 3 end in a failure."""
    data = load_dataset(plant(2), columns=COLUMNS)
    assert data.rewards.tolist() == [0, 1, 2, 3, 100, 101, 102, 103, 104]
    assert data.terminations.tolist() == [False] * 8 + [True]
    assert data.truncations.tolist() == [False] * 3 + [True] + [False] * 5
    assert data.valid_next.tolist() == [True] * 8 + [False]
    np.testing.assert_array_equal(data.observations[3:5], [[3 / 8, -3 / 4], [1, 0]])
    np.testing.assert_array_equal(data.next_observations[3], [4 / 8, -1])
    assert data.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)  # exactly what was tried
    # the range and a tenth of it on each side
    assert data.observation_space == spaces.Box(np.float32([-0.15, -1.1]), np.float32([1.65, 0.1]), dtype=np.float32)
    assert data.info.card["dropped_rows"].startswith("1:")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "csv.gz", "tsv", "feather", "arrow"])
def test_every_format_gives_the_same_data(tmp_path: Path, suffix: str) -> None:
    frame, path = plant(), tmp_path / f"log.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix in ("feather", "arrow"):
        frame.to_feather(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    expected = load_dataset(frame, columns=COLUMNS)
    assert same(load_dataset(path, columns=COLUMNS), expected)
    assert same(load_dataset(str(path), columns=COLUMNS), expected)


def test_every_frame_gives_the_same_data() -> None:
    frame = plant()
    expected = load_dataset(frame, columns=COLUMNS)
    polars = pl.from_pandas(frame)
    table = pa.Table.from_pandas(frame)
    for other in (polars, polars.lazy(), table, table.combine_chunks().to_batches()[0], frame.set_index(["batch_id", "t"])):
        assert same(load_dataset(other, columns=COLUMNS), expected)


@pytest.mark.parametrize("kind", [pl.Float64, pl.Categorical, pl.Enum(["open", "shut"])], ids=["text", "categories", "enum"])
def test_polars_writes_what_is_read(tmp_path: Path, kind: Any) -> None:
    """Texts among it, which polars writes as views."""
    frame = plant().assign(batch_id=lambda rows: rows["batch_id"].map("b{}".format), valve=["open", "shut"] * 10)
    polars = pl.from_pandas(frame).with_columns(pl.col("yield" if kind is pl.Float64 else "valve").cast(kind))
    expected = load_dataset(frame, columns=COLUMNS)
    assert same(load_dataset(polars, columns=COLUMNS), expected)
    polars.write_parquet(tmp_path / "log.parquet")
    polars.write_ipc(tmp_path / "log.arrow")
    assert pa.types.is_string_view(pa.ipc.open_file(tmp_path / "log.arrow").schema.field("batch_id").type)
    for path in tmp_path.iterdir():
        assert same(load_dataset(path, columns=COLUMNS), expected)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_partitioned_folders(tmp_path: Path, form: str) -> None:
    import pyarrow.dataset as ds

    ds.write_dataset(
        pa.Table.from_pandas(plant()), tmp_path / "log", format=form, partitioning=["batch_id"], partitioning_flavor="hive"
    )
    assert same(load_dataset(tmp_path / "log", columns=COLUMNS), load_dataset(plant(), columns=COLUMNS))


def test_a_folder_of_parts(tmp_path: Path) -> None:
    frame = plant()
    frame[10:].to_parquet(tmp_path / "a.parquet")
    frame[:10].to_parquet(tmp_path / "b.parquet")
    assert same(load_dataset(tmp_path, columns=COLUMNS), load_dataset(frame, columns=COLUMNS))
    frame[:3].drop(columns="flow").to_parquet(tmp_path / "c.parquet")
    with pytest.raises(DatasetError, match=r"c\.parquet and a\.parquet differ in the columns \['flow'\]"):
        load_dataset(tmp_path, columns=COLUMNS)


def test_rows_are_sorted_by_episode_and_time() -> None:
    frame = plant()
    shuffled = load_dataset(frame.sample(frac=1, random_state=3), columns=COLUMNS)
    assert same(shuffled, load_dataset(frame, columns=COLUMNS))
    assert any("sorted by batch_id, t" in line for line in shuffled.info.card["reading"])
    names = frame.assign(batch_id=[f"run {9 - number}" for number in frame["batch_id"]])
    backwards = load_dataset(names, columns=COLUMNS)
    assert backwards.rewards[0] == 300  # run 6 comes first


def test_gaps_in_time_are_cuts() -> None:
    frame = plant(1, 10).drop(index=[4])
    data = load_dataset(frame, columns=COLUMNS)  # rows 3 and 9 have no successor
    assert data.rewards.tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert data.truncations.tolist() == [False, False, True, False, False, False, True]
    assert any("1 gaps in t" in line for line in data.info.card["reading"])
    assert load_dataset(frame, columns={**COLUMNS, "gap": 20}).n_episodes == 1
    assert load_dataset(frame, columns={**COLUMNS, "gap": float("inf")}).n_episodes == 1


def test_dates_are_times() -> None:
    frame = plant(1, 10).drop(index=[4])
    dated = frame.assign(t=pd.Timestamp("2024-02-29") + pd.to_timedelta(frame["t"], unit="s"))
    assert same(load_dataset(dated, columns=COLUMNS), load_dataset(frame, columns=COLUMNS))
    assert load_dataset(dated, columns={**COLUMNS, "gap": 20}).n_episodes == 1  # seconds


def test_irregular_times_are_warned_of() -> None:
    frame = plant(1, 40)
    frame["t"] = np.cumsum(np.random.default_rng(0).exponential(size=40))
    with pytest.warns(DatasetWarning, match="of the rows are followed by a gap in t"):
        load_dataset(frame, columns=COLUMNS)


def test_files_that_are_one_episode_each(tmp_path: Path) -> None:
    for batch, episode in plant().groupby("batch_id"):
        episode.drop(columns="batch_id").to_csv(tmp_path / f"{batch}.csv", index=False)
    columns = {role: names for role, names in COLUMNS.items() if role != "episode"}
    with pytest.raises(DatasetError, match=r"have the same t \(15 such pairs\).*given as a list of files"):
        load_dataset(tmp_path, columns=columns)
    data = load_dataset(sorted(tmp_path.iterdir()), columns=columns)
    np.testing.assert_array_equal(data.observations, load_dataset(plant(), columns=COLUMNS).observations)
    assert data.n_episodes == 4


def test_one_time_twice_is_refused() -> None:
    frame = plant()
    frame.loc[7, "t"] = frame.loc[6, "t"]
    with pytest.raises(DatasetError, match="rows 6 and 7 have the same t and batch_id"):
        load_dataset(frame, columns=COLUMNS)


def test_categories_are_one_hot_or_choices() -> None:
    frame = plant().assign(
        mode=["b", "a", "c", "a", "b"] * 4, gear=pd.Categorical(["hi", "lo", "hi", "lo", "lo"] * 4, ["lo", "mid", "hi"])
    )
    columns = {**COLUMNS, "observations": ["temp", "mode", "gear"], "actions": "gear"}
    data = load_dataset(frame, columns=columns)
    np.testing.assert_array_equal(data.observations[:2, 1:], [[0, 1, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0]])
    assert data.action_space == spaces.Discrete(3)  # mid was never tried, and is a choice all the same
    assert data.actions[:4].tolist() == [2, 0, 2, 0]
    assert "gear: 0 = lo, 1 = mid, 2 = hi" in data.info.card["reading"]
    with pytest.raises(DatasetError, match="'name' holds 300 different values"):
        load_dataset(plant(60).assign(name=[f"n{i}" for i in range(300)]), columns={**COLUMNS, "observations": ["name"]})


@pytest.mark.parametrize(
    "written",
    [pd.Categorical, lambda x: x.astype(str), lambda x: pd.Categorical(x.astype(str)), lambda x: x / 1.0],
    ids=["categories", "texts", "categories of texts", "fractions"],
)
def test_whole_numbers_keep_their_values_however_they_are_written(written: Any, tmp_path: Path) -> None:
    """As places among the sorted texts 10, 11, 3, 9 they would be other actions and states."""
    gears = np.array([3, 10, 9, 11] * 5)
    frame = plant().assign(gear=written(gears))
    frame.to_parquet(tmp_path / "log.parquet")
    columns = {**COLUMNS, "observations": "gear", "actions": "gear", "next_observations": None}
    columns |= {"episode": None, "time": None, "terminations": True}
    given = {"observation_space": spaces.Discrete(12), "action_space": spaces.Discrete(12)}
    for source in (frame, tmp_path / "log.parquet"):
        data = load_dataset(source, columns=columns, **given)
        assert data.observations.tolist() == data.actions.tolist() == gears.tolist()
        if frame["gear"].dtype != float:
            assert load_dataset(source, columns=columns).action_space == spaces.Discrete(9, start=3)


def test_texts_that_are_numbers_are_no_names() -> None:
    frame = plant().assign(gear=["+3", " 4 ", "6.0", "3", "4"] * 4, speed=["3", "4"] * 10)
    columns = {**COLUMNS, "observations": ["gear", "speed"], "actions": "valve"}
    np.testing.assert_array_equal(load_dataset(frame, columns=columns).observations[:3], [[3, 3], [4, 4], [6, 3]])
    named = load_dataset(frame.astype({"speed": "category"}), columns=columns)
    np.testing.assert_array_equal(named.observations[:2, 1:], [[1, 0], [0, 1]])  # as the message of mixed ones advises


def test_categories_that_cannot_be_choices_are_refused() -> None:
    frame = plant().assign(valve=pd.Categorical([1000, 5000] * 10))
    with pytest.raises(DatasetError, match=r"'valve' among the actions has categories from 1000 to 5000.*x\.cat\.codes"):
        load_dataset(frame, columns=COLUMNS)
    assert load_dataset(frame.assign(valve=frame["valve"].cat.codes), columns=COLUMNS).action_space == spaces.Discrete(2)
    frame = plant().assign(temp=pd.cut(plant()["temp"], 3))
    with pytest.raises(DatasetError, match=r"'temp' holds categories of type .*interval.*rename_categories\(str\)"):
        load_dataset(frame, columns=COLUMNS)
    frame["temp"] = frame["temp"].cat.rename_categories(str)
    assert load_dataset(frame, columns=COLUMNS).observations.shape[1] == 4


def test_whole_numbers_and_bools_are_choices() -> None:
    frame = plant().assign(gear=[3, 4, 6, 3, 4] * 4, on=[True, False, False, True, True] * 4)
    data = load_dataset(frame, columns={**COLUMNS, "actions": "gear"})
    assert data.action_space == spaces.Discrete(4, start=3)
    assert data.actions[:5].tolist() == [3, 4, 6, 3, 3]
    data = load_dataset(frame, columns={**COLUMNS, "actions": "on", "observations": ["on", "gear"]})
    assert data.action_space == spaces.Discrete(2)
    np.testing.assert_array_equal(data.observations[:2], [[1, 3], [0, 4]])
    space = spaces.Box(0, 10, (1,), np.float32)
    data = load_dataset(frame, columns={**COLUMNS, "actions": "gear"}, action_space=space)
    assert data.actions[:3].tolist() == [[3], [4], [6]]


def test_lists_are_vectors_and_images(tmp_path: Path) -> None:
    frame = plant()
    vectors = np.stack([frame["temp"], frame["flow"]], axis=1)
    images = np.random.default_rng(0).integers(256, size=(20, 4, 3, 2), dtype=np.uint8)
    frame = frame.assign(state=list(vectors), camera=images.tolist())
    frame.to_parquet(tmp_path / "log.parquet")
    data = load_dataset(tmp_path / "log.parquet", columns={**COLUMNS, "observations": "state"})
    assert same(data, load_dataset(plant(), columns=COLUMNS))
    kind = pa.list_(pa.list_(pa.list_(pa.uint8())))
    table = pa.Table.from_pandas(frame[["batch_id", "t", "valve", "yield", "failed", "temp"]]).append_column(
        "camera", pa.array(images.tolist(), kind)
    )
    data = load_dataset(table, columns={**COLUMNS, "observations": "camera"})
    assert data.observations.dtype == np.uint8
    np.testing.assert_array_equal(data.observations[:4], images[:4])
    data = load_dataset(table, columns={**COLUMNS, "observations": {"camera": "camera", "heat": ["temp"]}})
    np.testing.assert_array_equal(data.observations["camera"][:4], images[:4])
    np.testing.assert_array_equal(data.observations["heat"][:4], vectors[:4, :1])


def test_fields_of_a_struct_are_columns() -> None:
    frame = plant()
    table = pa.Table.from_pandas(frame.drop(columns=["temp", "flow"])).append_column(
        "sensor", pa.array(frame[["temp", "flow"]].to_dict("records"))
    )
    data = load_dataset(table, columns={**COLUMNS, "observations": ["sensor.temp", "sensor.flow"]})
    assert same(data, load_dataset(frame, columns=COLUMNS))


def test_functions_see_the_sorted_frame(tmp_path: Path) -> None:
    frame = plant()
    shuffled = frame.sample(frac=1, random_state=0)
    shuffled.to_parquet(tmp_path / "log.parquet")
    expected = load_dataset(frame.assign(**{"yield": np.diff(frame["yield"], prepend=0)}), columns=COLUMNS)
    kinds = {
        "pandas": (shuffled, lambda df: df["yield"].diff().fillna(0)),
        "polars": (pl.from_pandas(shuffled), lambda df: df["yield"].diff().fill_null(0)),
        "file": (tmp_path / "log.parquet", lambda columns: np.diff(columns["yield"], prepend=0)),
    }
    for source, rewards in kinds.values():
        data = load_dataset(source, columns={**COLUMNS, "rewards": rewards})
        assert same(data, expected)
    hot = load_dataset(frame, columns={**COLUMNS, "terminations": lambda df: df["t"] == 40})
    assert hot.terminations.sum() == 4
    with pytest.raises(DatasetError, match=r"the function for rewards gave an array of shape \(5,\)"):
        load_dataset(frame, columns={**COLUMNS, "rewards": lambda df: df["yield"][:5]})
    with pytest.raises(DatasetError, match="the function for rewards failed: KeyError: 'yeild'"):
        load_dataset(frame, columns={**COLUMNS, "rewards": lambda df: df["yeild"]})


def test_ends_that_are_said_once_for_all() -> None:
    never = load_dataset(plant(2), columns={**COLUMNS, "terminations": False})
    assert not never.terminations.any()
    assert len(never) == 8  # neither last row has a successor
    always = load_dataset(plant(2), columns={**COLUMNS, "terminations": True})
    assert np.flatnonzero(always.terminations).tolist() == [4, 9]


def test_next_observations_of_their_own_columns() -> None:
    frame = plant(2).assign(temp_after=7.0, flow_after=8.0)
    data = load_dataset(frame, columns={**COLUMNS, "next_observations": ["temp_after", "flow_after"]})
    assert len(data) == 10
    assert (data.next_observations == [7, 8]).all()


def test_a_failure_inside_a_batch_is_refused() -> None:
    frame = plant()
    frame.loc[6, "failed"] = True
    with pytest.raises(
        DatasetError, match="1 rows are terminations, but more rows of the same batch_id follow, first in row 6"
    ):
        load_dataset(frame, columns=COLUMNS)


@pytest.mark.parametrize("column", ["temp", "valve", "yield", "failed", "batch_id", "t"])
@pytest.mark.parametrize("missing", [None, np.nan])
def test_missing_values_are_refused_by_column_and_row(column: str, missing: float | None, tmp_path: Path) -> None:
    frame = plant().astype({column: object})
    frame.loc[11, column] = missing
    frame = frame.astype({column: "boolean" if column == "failed" else "Float64"})
    with pytest.raises(DatasetError, match=f"'{column}' holds a missing value in row 11"):
        load_dataset(frame, columns=COLUMNS)
    frame.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DatasetError, match=f"'{column}' holds a missing value in row 11"):
        load_dataset(tmp_path / "log.csv", columns=COLUMNS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    table = plant().to_dict("list")
    table["flow"][13] = value
    with pytest.raises(DatasetError, match="'flow' holds NaN or inf in row 13"):
        load_dataset(pa.table(table), columns=COLUMNS)


def test_pairs_of_groupby_are_named() -> None:
    frame = plant()
    for pairs in (list(frame.groupby("batch_id")), list(pl.from_pandas(frame).group_by("batch_id", maintain_order=True))):
        with pytest.raises(DatasetError, match=r"a list of 4 pairs .*groupby.*give \[data for _, data in pairs\]"):
            load_dataset(pairs, columns=COLUMNS)
        data = load_dataset([data for _, data in pairs], columns=COLUMNS)
        np.testing.assert_array_equal(data.rewards, load_dataset(frame, columns=COLUMNS).rewards)


def test_spaces_of_several_loaded_tables_are_joint_ones() -> None:
    """What was derived gives way to what holds them all, and to what the caller says."""
    frame = plant()
    halves = [frame[frame["batch_id"] < 2], frame[frame["batch_id"] >= 2]]
    whole = load_dataset(frame, columns=COLUMNS)
    joint = load_dataset([load_dataset(half, columns=COLUMNS) for half in halves])
    assert joint.action_space == whole.action_space
    np.testing.assert_array_equal(joint.actions, whole.actions)
    wider = spaces.Box(-9, 9, (1,))
    said = load_dataset(whole, action_space=wider)
    assert said.action_space == wider
    assert said.info.card["derived_spaces"] == f"observations in {whole.observation_space}"
    with pytest.raises(DatasetError, match="actions leave the action space"):
        load_dataset(whole, action_space=spaces.Box(50, 51, (1,)))


def test_an_action_that_stands_still_in_one_part(tmp_path: Path) -> None:
    frame = plant()
    still = frame["batch_id"] < 2
    frame.loc[still, "valve"] = 0.0
    expected = load_dataset(frame, columns=COLUMNS)
    assert load_dataset([frame[still], frame[~still]], columns=COLUMNS).action_space == expected.action_space
    frame[still].astype({"valve": int}).to_csv(tmp_path / "still.csv", index=False)  # a Discrete action, of its own
    frame[~still].to_csv(tmp_path / "moving.csv", index=False)
    joint = load_dataset([tmp_path / "still.csv", tmp_path / "moving.csv"], columns=COLUMNS)
    assert joint.action_space == expected.action_space
    with pytest.raises(DatasetError, match="'valve' among the actions is always 0"):
        load_dataset([frame[still], frame[still]], columns=COLUMNS)


def test_nan_is_no_episode() -> None:
    """Of polars and pyarrow, where NaN is no missing value, its rows would be an episode of their own."""
    frame = plant()
    frame["batch_id"] = frame["batch_id"] + 0.5
    columns = {**COLUMNS, "episode": "batch_id", "time": None}
    assert load_dataset(pl.from_pandas(frame), columns=columns).n_episodes == frame["batch_id"].nunique()
    frame.loc[[3, 7], "batch_id"] = np.nan
    table = pa.table({name: frame[name].to_numpy() for name in frame})
    for source in (table, pl.from_arrow(table)):
        with pytest.raises(DatasetError, match=r"'batch_id' holds NaN or inf in row 3 \(2 of 20 rows\)"):
            load_dataset(source, columns=columns)


def test_nullable_columns_without_missing_values_are_read() -> None:
    nullable = plant().astype({"temp": "Float64", "failed": "boolean", "batch_id": "Int64"})
    assert same(load_dataset(nullable, columns=COLUMNS), load_dataset(plant(), columns=COLUMNS))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewards": "yeild"}, "names 'yeild' as rewards, which is no column. Near it: 'yield'"),
        ({"reward": "yield"}, "names 'reward', which means nothing; did you mean 'rewards'"),
        ({"observations": ["temp", "flwo"]}, "'flwo' among observations, which is no column. Near it: 'flow'"),
        ({"observations": ["temp", "temp"]}, "'temp' twice among observations"),
        ({"observations": []}, "observations as \\[\\]"),
        ({"actions": {"a": "valve"}}, "actions as"),
        ({"terminations": None}, 'which columns are terminations.*"terminations": False says'),
        ({"gap": -1}, "gap as -1"),
        ({"gap": 3, "time": None}, "a gap, but no column as time"),
        ({"rewards": 3}, "names '3' as rewards, which is no column"),
        ({"rewards": ["yield"]}, "rewards as \\['yield'\\]; the name of one column"),
        ({"time": "failed"}, "'failed', the time, is of type bool"),
    ],
)
def test_mappings_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        load_dataset(plant(), columns={**COLUMNS, **change})


def test_a_mapping_in_yaml(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    (tmp_path / "columns.yaml").write_text(yaml.safe_dump(COLUMNS))
    assert same(load_dataset(plant(), columns=tmp_path / "columns.yaml"), load_dataset(plant(), columns=COLUMNS))
    for text in ("!!python/object/apply:os.system ['true']", "a: 2020-13-45", "[" * 20_000, "a: !!int ''", "a: !!bool x"):
        (tmp_path / "columns.yaml").write_text(text)
        with pytest.raises(DatasetError, match="cannot be read as YAML"):
            load_dataset(plant(), columns=str(tmp_path / "columns.yaml"))
    with pytest.raises(DatasetError, match="cannot be read as YAML"):
        load_dataset(plant(), columns="gone.yaml")


def test_columns_called_on_and_no_in_yaml(tmp_path: Path) -> None:
    """Which YAML 1.1 takes for True and False; true and false are what they say."""
    pytest.importorskip("yaml")
    frame = plant().rename(columns={"temp": "on", "flow": "Off", "valve": "no"})
    given = {"observations": ["on", "Off"], "actions": "no", "terminations": False}
    (tmp_path / "columns.yaml").write_text("{observations: [on, Off], actions: no, terminations: false, rewards: 'yield'}")
    data = load_dataset(frame, columns=tmp_path / "columns.yaml")
    assert same(data, load_dataset(frame, columns={**given, "rewards": "yield"}))
    np.testing.assert_array_equal(data.observations[:, 0], frame["on"].astype("f4")[: len(data)])


def test_patterns_name_several_columns() -> None:
    frame = plant().rename(columns={"temp": "sensor_1", "flow": "sensor_2"})
    assert same(load_dataset(frame, columns={**COLUMNS, "observations": "sensor_*"}), load_dataset(plant(), columns=COLUMNS))


def test_names_are_guessed_and_said() -> None:
    frame = plant().rename(
        columns={
            "temp": "obs_0",
            "flow": "obs_1",
            "valve": "action",
            "yield": "reward",
            "failed": "terminated",
            "batch_id": "episode_id",
        }
    )
    with pytest.warns(UserWarning, match='columns taken by their names: {"observations": \\["obs_0", "obs_1"\\]'):
        data = load_dataset(frame)
    assert same(data, load_dataset(plant(), columns=COLUMNS))
    with pytest.raises(DatasetError, match="must say which columns are observations, actions, rewards, terminations"):
        load_dataset(plant())
    with pytest.raises(DatasetError, match="must say which columns are terminations"):
        load_dataset(frame.rename(columns={"terminated": "done"}))  # it may mean either end


def test_what_is_no_table_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="columns= tells how to read a table; this is a packaged id"):
        load_dataset("Pendulum-medium-v0", columns=COLUMNS)
    np.savez(tmp_path / "log.npz", a=1)
    with pytest.raises(DatasetError, match="this is an npz file"):
        load_dataset(tmp_path / "log.npz", columns=COLUMNS)


def test_a_constant_action_has_no_bounds() -> None:
    with pytest.raises(DatasetError, match="'valve' among the actions is always 3"):
        load_dataset(plant().assign(valve=3.0), columns=COLUMNS)
    space = spaces.Box(0, 5, (1,), np.float32)
    assert load_dataset(plant().assign(valve=3.0), columns=COLUMNS, action_space=space).action_space == space


def test_types_that_are_no_numbers_are_refused() -> None:
    frame = plant().assign(when=pd.Timestamp("2024-01-01"), blob=[b"x"] * 20, ragged=[[1.0] * (1 + i % 2) for i in range(20)])
    for column, said in (
        ("when", "no numbers"),
        ("blob", "no numbers"),
        ("ragged", "differ in length: 1 in row 0, 2 in row 1"),
    ):
        with pytest.raises(DatasetError, match=f"'{column}'.*{said}|{said}"):
            load_dataset(frame, columns={**COLUMNS, "observations": [column]})


def test_two_columns_of_one_name_are_refused() -> None:
    frame = plant()
    frame.columns = ["batch_id", "t", "temp", "temp", "valve", "yield", "failed"]
    with pytest.raises(DatasetError, match="two columns are named 'temp'"):
        load_dataset(frame, columns=COLUMNS)
    with pytest.raises(DatasetError, match="two columns are named 'temp'"):
        load_dataset(pa.table([[1.0], [2.0]], names=["temp", "temp"]), columns=COLUMNS)


def test_empty_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no rows"):
        load_dataset(plant()[:0], columns=COLUMNS)
    plant()[:0].to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DatasetError, match="no rows"):
        load_dataset(tmp_path / "log.csv", columns=COLUMNS)


def test_a_large_file_is_read_by_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_offline.datasets.sources.tables import sizes

    frame = plant(30, 20).assign(mode=np.repeat(["z", "a", "q"], 200)).sample(frac=1, random_state=1)
    columns = {**COLUMNS, "observations": ["temp", "flow", "mode"]}
    pa.parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "log.parquet", row_group_size=70)
    frame.to_csv(tmp_path / "log.csv", index=False)
    expected = load_dataset(frame, columns=columns)
    monkeypatch.setattr(sizes, "KEPT_BYTES", 0)
    for path in sorted(tmp_path.iterdir()):
        assert load_dataset(path, columns={**columns}).n_episodes == expected.n_episodes
    data = load_dataset(tmp_path / "log.parquet", columns=columns)
    np.testing.assert_array_equal(data.rewards, expected.rewards)
    np.testing.assert_array_equal(data.observations[:, :2], expected.observations[:, :2])
    modes = data.observations[:, 2:].sum(axis=0)
    assert sorted(modes.tolist()) == sorted(expected.observations[:, 2:].sum(axis=0).tolist())


def test_a_task_gives_its_spaces() -> None:
    frame = plant().assign(third=0.0, valve=plant()["valve"] / 2)
    columns = {**COLUMNS, "observations": ["temp", "flow", "third"]}
    info = open_dataset(frame, columns=columns, env_id="Pendulum-v1").info
    assert info.action_space == spaces.Box(-2.0, 2.0, (1,), np.float32)
    assert info.env_spec is not None


@pytest.mark.parametrize("suffix", ["parquet", "csv", "feather"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_or_right(tmp_path: Path, suffix: str) -> None:
    frame, path = plant(8, 25), tmp_path / f"log.{suffix}"
    {"parquet": frame.to_parquet, "feather": frame.to_feather, "csv": lambda p: frame.to_csv(p, index=False)}[suffix](path)
    refused = assert_refused_or_well_formed(path, lambda file: load_dataset(file, columns=COLUMNS))
    assert refused >= 50


def test_inspect_says_how_a_table_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sb3_offline.cli import main

    path, said = tmp_path / "log.parquet", tmp_path / "columns.yaml"
    plant(8, 20).sample(frac=1, random_state=0).to_parquet(path)
    assert main(["inspect", str(path)]) == 2
    error = capsys.readouterr().err
    assert "columns= must say which columns are observations, actions, rewards, terminations" in error
    assert "'episode': 'batch_id', 'time': 't'" in error
    said.write_text(
        "{observations: [temp, flow], actions: valve, rewards: yield, terminations: failed, episode: batch_id, time: t}"
    )
    main(["inspect", str(path), "--columns", str(said)])
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "160 rows of log.parquet",
        "sorted by batch_id, t",
        "8 episodes",
        "actions in Box",
        "4: the last of each cut",
    ):
        assert words in printed
    assert main(["convert", str(path), str(tmp_path / "log.npz"), "--columns", str(said)]) == 0


def test_several_tables_share_a_space() -> None:
    """Each alone has other bounds; together the widest."""
    one, other = plant(2), plant(4)[10:]
    data = load_dataset([one, other], columns=COLUMNS)
    assert data.action_space == load_dataset(plant(4), columns=COLUMNS).action_space
    assert data.rewards.tolist() == load_dataset(plant(4), columns=COLUMNS).rewards.tolist()
    columns = {**COLUMNS, "observations": ["mode"]}
    with pytest.raises(DatasetError, match="hold different categories"):
        load_dataset([one.assign(mode=["a", "b"] * 5), other.assign(mode=["a", "c"] * 5)], columns=columns)


@pytest.mark.filterwarnings("ignore")
def test_damaged_lists_of_an_arrow_file_do_not_end_the_process(tmp_path: Path) -> None:
    """Their offsets may lie outside the file; pyarrow reads there unless it is told to look first."""
    import pyarrow.feather

    rng, path = np.random.default_rng(0), tmp_path / "log.feather"
    table = pa.table(
        {
            "obs": rng.normal(size=(60, 3)).tolist(),
            "kind": ["a", "b"] * 30,
            "act": rng.uniform(-1, 1, (60, 2)).tolist(),
            "reward": rng.normal(size=60),
            "episode": np.arange(60) // 10,
        }
    )
    pyarrow.feather.write_feather(table, path, compression="uncompressed")
    names = {"observations": ["obs", "kind"], "actions": "act", "rewards": "reward", "episode": "episode"}
    refused = assert_refused_or_well_formed(path, lambda file: load_dataset(file, columns={**names, "terminations": False}))
    assert refused >= 100
