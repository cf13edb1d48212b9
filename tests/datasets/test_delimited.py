"""CSV as programs of all kinds write it, and numbers that came as text."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from sb3_offline.datasets import DatasetError, load_dataset
from sb3_offline.datasets.sources.tables.values import survey_column
from tests.datasets.test_tables import COLUMNS, plant, same

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("ignore:.*spaces as the data suggest")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "columns parted by commas"),
        ({"encoding": "utf-8-sig"}, "columns parted by commas"),
        ({"quoting": 1}, "columns parted by commas"),
        ({"lineterminator": "\r\n"}, "columns parted by commas"),
        ({"lineterminator": "\n\n"}, "columns parted by commas"),
        ({"sep": ";"}, "columns parted by semicolons"),
        ({"sep": ";", "decimal": ","}, "columns parted by semicolons, fractions by a comma"),
        ({"sep": "\t"}, "columns parted by tabs"),
        ({"sep": "|"}, "columns parted by bars"),
    ],
)
def test_every_way_of_writing_it(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    path = tmp_path / "log.csv"
    plant().to_csv(path, index=False, **options)
    data = load_dataset(path, columns=COLUMNS)
    assert same(data, load_dataset(plant(), columns=COLUMNS))
    assert said in data.info.card["reading"]


def test_names_that_hold_the_delimiter(tmp_path: Path) -> None:
    """Quoted as writers do: three semicolons in names and six between columns, commas nowhere."""
    names = {"temp": "temp; degC", "flow": "flow; l/s", "valve": "valve; 1"}
    plant().rename(columns=names).to_csv(tmp_path / "log.csv", index=False, sep=";")
    columns = {**COLUMNS, "observations": ["temp; degC", "flow; l/s"], "actions": "valve; 1"}
    assert same(load_dataset(tmp_path / "log.csv", columns=columns), load_dataset(plant(), columns=COLUMNS))


@pytest.mark.parametrize("large", [False, True])
def test_each_file_of_a_folder_has_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """Read as the first one is, the second file's 0,75 were 75 or a text."""
    from sb3_offline.datasets.sources.tables import sizes

    if large:
        monkeypatch.setattr(sizes, "KEPT_BYTES", 0)
    for number, options in enumerate([{}, {"sep": ";", "decimal": ","}, {}]):
        plant()[slice(7 * number, 7 * (number + 1))].to_csv(tmp_path / f"{number}.csv", index=False, **options)
    data = load_dataset(tmp_path, columns=COLUMNS)
    assert same(data, load_dataset(plant(), columns=COLUMNS))
    ways = ["columns parted by commas", "columns parted by semicolons, fractions by a comma"]
    assert [line for line in data.info.card["reading"] if line.startswith("columns parted")] == ways


def test_compressed_tsv(tmp_path: Path) -> None:
    (tmp_path / "log.tsv.gz").write_bytes(gzip.compress(plant().to_csv(index=False, sep="\t").encode()))
    assert same(load_dataset(tmp_path / "log.tsv.gz", columns=COLUMNS), load_dataset(plant(), columns=COLUMNS))


@pytest.mark.parametrize(
    ("encoding", "text", "message"),
    [
        ("latin1", "tempé", r"byte 15 is no UTF-8.*iconv -f latin1"),
        ("utf-16", "temp", r"byte 0 is no UTF-8.*iconv -f UTF-16"),
        ("utf-8", "flow", r"its first line names the columns\): two columns are named 'flow'"),
    ],
)
def test_first_lines_that_cannot_be_read(tmp_path: Path, encoding: str, text: str, message: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(plant().rename(columns={"temp": text}).to_csv(index=False).encode(encoding))
    with pytest.raises(DatasetError, match=message):
        load_dataset(path, columns=COLUMNS)


def _with(column: str, values: list[Any]) -> Any:
    frame = plant()
    frame[column] = values
    return frame


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1.5"] * 7 + ["?"] + ["2.5"] * 12, r"'temp' holds numbers as text, such as '1.5', and '\?' in row 7"),
        (["12.5 C"] * 20, r"'temp' holds numbers as text, such as '12.5 C'\. "),
        (["1,200.50"] * 20, r"'temp' holds numbers as text, such as '1,200.50'"),
        ([*"0123456789012", "None", *"345678"], r"'temp' holds numbers as text, such as '0', and 'None' in row 13"),
        (["[0.5, 1.0]"] * 20, r"such as '\[0.5, 1.0\]'.*CSV cannot hold"),
    ],
)
def test_numbers_that_are_text_are_no_categories(tmp_path: Path, values: list[str], message: str) -> None:
    """One-hot they would be read, and mean nothing."""
    frame = _with("temp", values)
    with pytest.raises(DatasetError, match=message):
        load_dataset(frame, columns=COLUMNS)
    frame.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path / "log.csv", columns=COLUMNS)
    declared = load_dataset(frame.astype({"temp": "category"}), columns=COLUMNS)
    assert declared.observations.shape[1] == 1 + len(set(values))


def test_whole_numbers_and_names_in_different_blocks() -> None:
    """A large table is surveyed by blocks."""
    digits, names = (survey_column(pa.chunked_array([[text]]), "gear", "log") for text in "1N")
    with pytest.raises(DatasetError, match="'gear' holds numbers as text before row 1, but elsewhere 'N'"):
        digits.merged(names, "gear", "log", 1)
    with pytest.raises(DatasetError, match="'gear' holds numbers as text from row 1 on, but elsewhere 'N'"):
        names.merged(digits, "gear", "log", 1)


def test_a_missing_text_is_a_missing_value(tmp_path: Path) -> None:
    """As an empty category it would be one more choice."""
    _with("valve", ["open", "shut", ""] * 6 + ["open"] * 2).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DatasetError, match=r"'valve' holds a missing value in row 2 \(6 of 20 rows\)"):
        load_dataset(tmp_path / "log.csv", columns=COLUMNS)


def test_columns_that_pandas_numbers() -> None:
    frame = plant()
    place = {name: number for number, name in enumerate(frame.columns)}
    columns = {role: [place[n] for n in names] if isinstance(names, list) else place[names] for role, names in COLUMNS.items()}
    frame.columns = range(frame.shape[1])
    assert same(load_dataset(frame, columns=columns), load_dataset(plant(), columns=COLUMNS))


def test_what_pyarrow_does_not_take_is_no_damage() -> None:
    with pytest.raises(DatasetError, match=r"the table cannot be read; pyarrow does not take it: .*column temp"):
        load_dataset(_with("temp", [1, "a"] * 10), columns=COLUMNS)


def test_other_files_of_arrow_are_named(tmp_path: Path) -> None:
    import pyarrow.feather

    table = pa.Table.from_pandas(plant())
    pyarrow.feather.write_feather(table, tmp_path / "old.feather", version=1)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table)
    for name, what in (("old.feather", "Feather file of version 1"), ("stream.arrow", r"stream of Arrow: .*write_feather")):
        with pytest.raises(DatasetError, match=what):
            load_dataset(tmp_path / name, columns=COLUMNS)
