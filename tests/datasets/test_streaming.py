"""Conversion into memory-mapped folders, block by block: the same rows to the bit as at once, also after a break."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.cli import main
from sb3_offline.datasets import DatasetError, OfflineDataset, load_dataset, mapped, open_dataset
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES
from sb3_offline.datasets.sources import converting, episodes
from sb3_offline.datasets.sources.streaming import checked_blocks
from sb3_offline.datasets.sources.tables import sizes

pytestmark = pytest.mark.filterwarnings("ignore")
SPACES: dict[str, Any] = {
    "observation_space": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "action_space": spaces.Box(-1.0, 1.0, (1,), np.float32),
}


def assert_equal(one: OfflineDataset, other: OfflineDataset) -> None:
    for name in ARRAY_NAMES:
        np.testing.assert_array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)), err_msg=name)
    assert one.fingerprint() == other.fingerprint()


def random_rows(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Ends of every kind, next to each other too."""
    kinds = rng.choice(4, size=n, p=[0.55, 0.15, 0.15, 0.15])
    return {
        "observations": rng.normal(size=(n, 2)),
        "actions": rng.uniform(-1, 1, size=(n, 1)),
        "rewards": rng.normal(size=n),
        "terminations": (kinds == 1) | (kinds == 3),
        "truncations": (kinds == 2) | (kinds == 3),
    }


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("with_next", [False, True])
def test_blocks_are_checked_as_the_whole_is(seed: int, with_next: bool) -> None:
    """Blocks of any lengths, down to one row: nothing may depend on where they are cut."""
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, 40)
    if with_next:
        rows["next_observations"] = rng.normal(size=(40, 2))
    info = open_dataset(rows, **SPACES).info
    cuts = np.unique(np.r_[0, rng.integers(1, 40, size=rng.integers(0, 30)), 40])
    blocks = ({name: part[i:j] for name, part in rows.items()} for i, j in pairwise(cuts))
    whole = load_dataset(rows, **SPACES)
    streamed = list(checked_blocks(blocks, info))
    for name in ARRAY_NAMES:
        joined = np.concatenate([getattr(part, name) for part in streamed])
        np.testing.assert_array_equal(joined, getattr(whole, name), err_msg=f"{name} {cuts}")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 7 rows in place of 65,536, and nothing kept in memory."""
    monkeypatch.setattr(mapped, "BLOCK_ROWS", 7)
    monkeypatch.setattr(sizes, "KEPT_BYTES", 0)


def plant(n_batches: int = 12, length: int = 9) -> Any:
    pd = pytest.importorskip("pandas")
    rng, n = np.random.default_rng(0), n_batches * length
    frame = pd.DataFrame({name: rng.uniform(-1, 1, n) for name in ("temp", "flow", "valve", "yield")})
    frame["batch"], frame["t"] = np.repeat(np.arange(n_batches), length), np.tile(np.arange(length), n_batches)
    frame["failed"] = (frame["t"] == length - 1) & (frame["batch"] % 3 == 0)
    return frame.drop(index=[13, 50])


MAPPING = (
    "{observations: [temp, flow], actions: valve, rewards: 'yield', terminations: failed, episode: batch, time: t, gap: 1.5}"
)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_a_table_streams_into_a_folder(tmp_path: Path, shuffled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    frame = plant().sample(frac=1, random_state=0) if shuffled else plant()
    frame.to_parquet(tmp_path / "log.parquet", row_group_size=20)
    (tmp_path / "columns.yaml").write_text(MAPPING)
    target = tmp_path / "log.mmap"
    assert main(["convert", str(tmp_path / "log.parquet"), str(target), "--columns", str(tmp_path / "columns.yaml")]) == 0
    whole = load_dataset(tmp_path / "log.parquet", columns=tmp_path / "columns.yaml")
    assert f"{len(whole):,} transitions, {whole.n_episodes} episodes" in capsys.readouterr().out
    mapped = load_dataset(target)  # its spaces lie in the folder
    assert_equal(mapped, whole)
    assert mapped.action_space == whole.action_space
    assert mapped.info.card["dropped_rows"] == whole.info.card["dropped_rows"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["columns.yaml", "log.mmap", "log.parquet"]


@pytest.mark.usefixtures("small_blocks")
def test_a_file_without_rows_streams_beside_others(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder, frame = tmp_path / "log", plant()
    folder.mkdir()
    for name, part in (("a", frame[:40]), ("b", frame[:0]), ("c", frame[40:])):
        part.to_parquet(folder / f"{name}.parquet")
    (tmp_path / "columns.yaml").write_text(MAPPING)
    assert main(["convert", str(folder), str(tmp_path / "log.mmap"), "--columns", str(tmp_path / "columns.yaml")]) == 0
    assert_equal(load_dataset(tmp_path / "log.mmap"), load_dataset(folder, columns=tmp_path / "columns.yaml"))


@pytest.mark.parametrize("with_next", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_hdf5_streams_into_a_folder(tmp_path: Path, with_next: bool) -> None:
    rng = np.random.default_rng(0)
    rows = random_rows(rng, 60)
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for name, values in rows.items():
            file.create_dataset({"terminations": "terminals", "truncations": "timeouts"}.get(name, name), data=values)
        if with_next:
            file["next_observations"] = rng.normal(size=(60, 2))
    source = open_dataset(tmp_path / "log.hdf5", **SPACES)
    assert source.read_blocks is not None
    converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    assert_equal(load_dataset(tmp_path / "log.mmap"), source.load())


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
@pytest.mark.parametrize("kind", ["plain", "next", "steps", "by columns", "last observation"])
@pytest.mark.usefixtures("small_blocks")
def test_arrays_stream_into_a_folder(tmp_path: Path, suffix: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    rows = random_rows(rng, 60)
    if kind == "next":
        rows["next_observations"] = rng.normal(size=(60, 2))
    elif kind == "steps":  # of RLDS
        rows["is_first"] = np.append(True, rows.pop("truncations")[:-1] | rows["terminations"][:-1])
    elif kind == "by columns":
        rows["observations"] = np.asfortranarray(rows["observations"])
    elif kind == "last observation":
        rows |= {
            "observations": rng.normal(size=(61, 2)),
            "terminations": np.zeros(60, bool),
            "truncations": np.zeros(60, bool),
        }
    path = tmp_path / f"log.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, **rows)
    else:
        with h5py.File(path, "w") as file:
            file.update(rows)
    source = open_dataset(path, **SPACES)
    assert source.read_blocks is not None
    converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    assert_equal(load_dataset(tmp_path / "log.mmap"), source.load())


@pytest.mark.usefixtures("small_blocks")
def test_episodes_stream_into_a_folder(tmp_path: Path) -> None:
    fixture = Path(__file__).parent / "fixtures" / "d3rlpy_continuous.h5"
    source = open_dataset(fixture)
    converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    assert_equal(load_dataset(tmp_path / "log.mmap"), load_dataset(fixture))


@pytest.mark.parametrize("after", [1, 3, 8])
@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_conversion_goes_on(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    plant().to_parquet(tmp_path / "log.parquet", row_group_size=20)
    (tmp_path / "columns.yaml").write_text(MAPPING)
    target, command = (
        tmp_path / "log.mmap",
        ["convert", str(tmp_path / "log.parquet"), str(tmp_path / "log.mmap"), "--columns"],
    )
    command.append(str(tmp_path / "columns.yaml"))
    appended: list[int] = []
    append = converting.MappedWriter.append

    def interrupted(self: Any, block: Any) -> None:
        if len(appended) == after:
            self._columns["rewards"].file.write(b"torn")  # a block that was only begun
            raise KeyboardInterrupt
        append(self, block)
        appended.append(len(block["rewards"]))

    monkeypatch.setattr(converting.MappedWriter, "append", interrupted)
    assert main(command) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not target.exists()
    rest: list[int] = []

    def counted(self: Any, block: Any) -> None:
        append(self, block)
        rest.append(len(block["rewards"]))

    monkeypatch.setattr(converting.MappedWriter, "append", counted)
    assert main(command) == 0
    whole = load_dataset(tmp_path / "log.parquet", columns=tmp_path / "columns.yaml")
    assert sum(appended) + sum(rest) == len(whole)  # nothing was written twice
    assert_equal(load_dataset(target), whole)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.usefixtures("small_blocks")
def test_another_source_does_not_go_on_with_it(tmp_path: Path) -> None:
    rows = random_rows(np.random.default_rng(0), 40)
    source = open_dataset(rows, **SPACES)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "one", advance=stop)
    other = open_dataset(random_rows(np.random.default_rng(1), 40), **SPACES)
    converting.stream_to_folder(other, tmp_path / "log.mmap", other.info, "other")
    assert_equal(load_dataset(tmp_path / "log.mmap"), other.load())


def test_spaces_travel_with_data_that_name_no_task(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    plant().to_parquet(tmp_path / "log.parquet")
    (tmp_path / "columns.yaml").write_text(MAPPING)
    whole = load_dataset(tmp_path / "log.parquet", columns=tmp_path / "columns.yaml")
    for name in ("log.npz", "log.hdf5", "log.mmap"):
        assert (
            main(["convert", str(tmp_path / "log.parquet"), str(tmp_path / name), "--columns", str(tmp_path / "columns.yaml")])
            == 0
        )
        data = load_dataset(tmp_path / name)
        assert_equal(data, whole)
        assert (data.observation_space, data.action_space) == (whole.observation_space, whole.action_space)
    with np.load(tmp_path / "log.npz") as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(tmp_path / "bad.npz", **{**arrays, "metadata": '{"action_space": {"kind": "Box"}}'})
    with pytest.raises(DatasetError, match=r"bad\.npz: the metadata's spaces"):
        load_dataset(tmp_path / "bad.npz")


@pytest.mark.parametrize("name", ["Pendulum-medium-v0", "CartPole-medium-replay-v0"])
def test_parquet_goes_there_and_back_to_the_bit(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    assert main(["convert", name, str(tmp_path / "log.parquet")]) == 0
    own, data = load_dataset(name), load_dataset(tmp_path / "log.parquet")
    assert_equal(data, own)
    assert (data.info.env_spec, data.info.reference_max_score) == (own.info.env_spec, own.info.reference_max_score)
    assert main(["convert", str(tmp_path / "log.parquet"), str(tmp_path / "log.mmap")]) == 0
    assert_equal(load_dataset(tmp_path / "log.mmap"), own)


def test_dict_observations_and_images_in_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from sb3_offline.shell.writing import write_dataset

    rng = np.random.default_rng(0)
    image, space = rng.integers(256, size=(21, 5, 4, 3), dtype=np.uint8), spaces.Box(0, 255, (5, 4, 3), np.uint8)
    state = rng.normal(size=(21, 2)).astype(np.float32)
    rows = random_rows(rng, 20)
    rows |= {
        name: {"image": image[i : i + 20], "state": state[i : i + 20]}
        for i, name in enumerate(("observations", "next_observations"))
    }
    own = load_dataset(
        rows,
        observation_space=spaces.Dict({"image": space, "state": SPACES["observation_space"]}),
        action_space=SPACES["action_space"],
    )
    write_dataset(own, str(tmp_path / "log.parquet"))
    data = load_dataset(tmp_path / "log.parquet")
    assert_equal(data, own)
    assert data.observation_space == own.observation_space


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_functions_of_all_rows_stream_into_a_folder(tmp_path: Path, shuffled: bool) -> None:
    """They see columns, not blocks: a mean is that of all rows, and a difference goes on from block to block."""
    pd = pytest.importorskip("pandas")
    frame = plant().assign(state=lambda rows: list(rows[["temp", "flow"]].to_numpy()))
    (frame.sample(frac=1, random_state=0) if shuffled else frame).to_parquet(tmp_path / "log.parquet", row_group_size=20)
    columns = {
        "observations": "state",
        "actions": "valve",
        "rewards": lambda table: table["yield"] - table["yield"].mean() + np.diff(table["temp"], prepend=0),
        "terminations": lambda table: table["failed"] & (table["state"][:, 0] == table["temp"]),
        "truncations": lambda table: pd.DataFrame({name: table[name] for name in ("t", "flow")})["flow"] > 0.9,
        "episode": "batch",
        "time": "t",
    }
    source = open_dataset(tmp_path / "log.parquet", columns=columns)
    converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    data = load_dataset(tmp_path / "log.mmap")
    assert_equal(data, source.load())
    mean = frame["yield"].mean()
    assert data.rewards[0] == pytest.approx(frame["yield"].iloc[0] - mean + frame["temp"].iloc[0], abs=1e-6)
    assert data.rewards[8] == pytest.approx(frame["yield"].iloc[8] - mean + frame["temp"].diff().iloc[8], abs=1e-6)
    assert data.terminations.sum() == 4
    wrong = open_dataset(tmp_path / "log.parquet", columns={**columns, "rewards": lambda table: table["yeild"]})
    with pytest.raises(DatasetError, match=r"the function for rewards failed: KeyError: .*'yeild' is no column; there are"):
        next(wrong.blocks(tmp_path))


@pytest.mark.parametrize("kept", [0, 10**9])
def test_spaces_of_episodes_are_found_by_blocks(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that is too large to be kept, the rows are read again."""
    fixture = Path(__file__).parent / "fixtures" / "d3rlpy_continuous.h5"
    expected = load_dataset(fixture)
    monkeypatch.setattr(mapped, "BLOCK_ROWS", 7)
    monkeypatch.setattr(episodes, "KEPT_BYTES", kept)
    data = load_dataset(fixture)
    assert_equal(data, expected)
    assert data.observation_space == expected.observation_space
    assert data.action_space == expected.action_space
