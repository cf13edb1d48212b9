"""Data files that open other files, take all memory, keep the reader waiting, or speak to the terminal."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.envs.registration import WrapperSpec

from sb3_offline import load_dataset
from sb3_offline.cli import main
from sb3_offline.datasets import DatasetError, save_mapped
from sb3_offline.datasets.envs import env_from_spec
from sb3_offline.datasets.sources.tables.arrow_footer import unpacked_bytes, unpacked_stream_bytes
from sb3_offline.datasets.sources.tables.columns import parse_columns
from sb3_offline.datasets.sources.tables.frames import Frame
from sb3_offline.datasets.sources.tables.values import codes
from sb3_offline.files.trust import trusting
from sb3_offline.studies.plan import StudyError, read_study

N = 60


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(N, 3)).astype(np.float32),
        "actions": rng.uniform(-2, 2, (N, 1)).astype(np.float32),
        "rewards": rng.normal(size=N).astype(np.float32),
        "terminals": np.arange(N) % 20 == 19,
    }


def hdf5(path: Path, change: Callable[[h5py.File], Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays().items():
            file[name] = array
        file["metadata/env_id"] = "Pendulum-v1"
        change(file)
    return path


def share_one_text(file: h5py.File, length: int = 2_000_000) -> None:
    """Rows that are all the same object of the file's heap: written once, read as often as it is named."""
    del file["rewards"]
    item = file.create_dataset("rewards", (1000,), dtype=h5py.string_dtype())
    item[0] = "x" * length


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (share_one_text, "rewards has dtype object: texts, lists or references"),
        (lambda file: file.create_dataset("timeouts", (N,), dtype=h5py.vlen_dtype(np.float32)), "texts, lists or references"),
        (lambda file: file.create_dataset("timeouts", (N,), dtype=h5py.ref_dtype), "texts, lists or references"),
        (lambda file: file.create_dataset("timeouts", (10**9,), dtype=bool), "zip bomb"),
        (lambda file: file.create_dataset("infos/x", data=1) and file.create_dataset("timeouts", (10**8,), "i1"), "zip bomb"),
        (
            lambda file: file.create_dataset("timeouts", (N,), bool, chunks=(10**9,), maxshape=(None,), compression="gzip"),
            "zip bomb",
        ),
    ],
)
def test_arrays_that_ask_for_memory(change: Callable[[h5py.File], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(hdf5(tmp_path / "data.hdf5", change))


def attribute(file: h5py.File) -> None:
    file.attrs.create("many", ["x" * 100] * 500, dtype=h5py.string_dtype())
    file.attrs["description"] = "short"


def long_text(file: h5py.File) -> None:
    file.create_dataset("metadata/long", (), dtype="S1000000000")
    file.create_dataset("metadata/list", (), dtype=h5py.vlen_dtype(np.int64))
    file["metadata/description"] = "short"


@pytest.mark.parametrize("change", [attribute, long_text])
def test_metadata_that_are_not_short_are_left_out(change: Callable[[h5py.File], Any], tmp_path: Path) -> None:
    card = load_dataset(hdf5(tmp_path / "data.hdf5", change)).info.card
    assert card["description"] == "short"
    assert {"many", "long", "list"} & card.keys() == set()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "not a JSON object"),
        ('{"a": ' + "[" * 500 + "]" * 500 + "}", "lists within lists"),
        ("[1, 2]", "not a JSON object"),
        ('{"reference_min_score": NaN, "reference_max_score": 1}', "reference_min_score is nan, not a finite number"),
        ('{"reference_min_score": 0, "reference_max_score": 1e999}', "reference_max_score is inf"),
        ('{"reference_min_score": 0, "reference_max_score": "NaN"}', "reference_max_score is nan"),
        ('{"reference_min_score": [0]}', "not a number"),
        ('{"reference_min_score": ' + "9" * 400 + "}", "not a number"),
        ('{"a": [' + "[]," * 1_000_000 + "0]}", "characters of description"),
    ],
    ids=lambda value: value[:40],
)
@pytest.mark.parametrize("kind", ["npz", "hdf5", "mmap"])
def test_metadata_that_cannot_be(kind: str, metadata: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(written(tmp_path, kind, metadata), env_id="Pendulum-v1")


def written(folder: Path, kind: str, metadata: str | bytes) -> Path:
    path = folder / f"data.{kind}"
    if kind == "npz":
        np.savez(path, metadata=metadata, **arrays())  # type: ignore[arg-type]
    elif kind == "hdf5":
        with h5py.File(path, "w") as file:
            for name, array in arrays().items():
                file[name] = array
            file["metadata"] = metadata
    else:
        save_mapped(load_dataset(arrays(), env_id="Pendulum-v1"), path)
        (path / "metadata.json").write_bytes(metadata if isinstance(metadata, bytes) else metadata.encode())
    return path


ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\u202e"


@pytest.mark.parametrize("kind", ["npz", "hdf5", "mmap"])
def test_no_escape_reaches_the_terminal(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = json.dumps({"env_id": "Pendulum-v1", "description": ESCAPES, ESCAPES: [ESCAPES], "algorithm": ESCAPES})
    path = written(tmp_path, kind, metadata)
    assert main(["inspect", str(path)]) in (0, 2)
    for text in capsys.readouterr():
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    path = written(tmp_path / kind, kind, json.dumps({"env_id": ESCAPES})) if (tmp_path / kind).mkdir() is None else path
    assert main(["inspect", str(path)]) == 2
    for text in capsys.readouterr():
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)


def test_names_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a{ESCAPES}.npz"
    np.savez(path, env_id="Pendulum-v1", **arrays())  # type: ignore[arg-type]
    for words in (["inspect", str(path)], ["inspect", str(path) + "x.npz"], ["convert", str(path), str(tmp_path / "b.npz")]):
        main(words)
        for text in capsys.readouterr():
            assert not {"\x1b", "\x07", "\x9b"} & set(text), words


@pytest.mark.parametrize("metadata", [b'{"description": "\xff\xfe"}', b"\xff"])
def test_metadata_that_are_not_unicode(metadata: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, "mmap", metadata)
    if metadata == b"\xff":
        with pytest.raises(DatasetError, match="not a JSON object"):
            load_dataset(path, env_id="Pendulum-v1")
    else:
        assert load_dataset(path, env_id="Pendulum-v1").info.card["description"] == "\ufffd\ufffd"


# --- folders ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_mapped(load_dataset(arrays(), env_id="Pendulum-v1"), tmp_path / "data.mmap")
    return tmp_path / "data.mmap"


MEMBERS = ["metadata.json", "actions.npy", "rewards.npy", "terminations.npy", "final_rows.npy", "final_observations.npy"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("name", [*MEMBERS, "valid_next.npy", "next_observations.npy"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe", "link out", "broken link"])
def test_members_that_are_no_files(kind: str, name: str, folder: Path) -> None:
    file, elsewhere = folder / name, folder.parent / "elsewhere"
    if kind == "link out":
        shutil.copy(file if file.exists() else folder / "rewards.npy", elsewhere)
    elif kind == "link to a pipe":
        os.mkfifo(elsewhere)
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero" if kind == "device" else elsewhere)
    with pytest.raises(DatasetError, match=rf"{name}.* (a link|a device|a pipe)"):
        load_dataset(folder)


def test_links_within_and_to_a_folder(folder: Path) -> None:
    (folder / "rewards.npy").rename(folder / "r.npy")
    (folder / "rewards.npy").symlink_to("r.npy")
    (folder.parent / "linked.mmap").symlink_to(folder)
    assert len(load_dataset(folder.parent / "linked.mmap")) == N


@pytest.mark.parametrize("array", [np.float32(3.0), np.array(["a", "b"]), np.zeros(3, [("a", "f4")])], ids=str)
def test_arrays_without_rows(array: Any, folder: Path) -> None:
    np.save(folder / "rewards.npy", array)
    with pytest.raises(DatasetError, match="rewards"):
        load_dataset(folder)


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_arrays_of_no_dimension(kind: str, tmp_path: Path) -> None:
    for name in arrays():
        forged = arrays() | {name: np.array(1.0, dtype=np.float32)}
        path = tmp_path / f"{name}.{kind}"
        if kind == "npz":
            np.savez(path, **forged)  # type: ignore[arg-type]
        else:
            with h5py.File(path, "w") as file:
                for key, array in forged.items():
                    file[key] = array
        with pytest.raises(DatasetError, match=name):
            load_dataset(path, env_id="Pendulum-v1")


# --- tasks ---


def spec_with(**changed: Any) -> Any:
    spec = copy.deepcopy(gym.spec("Pendulum-v1"))
    vars(spec).update(changed)
    return spec


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gymnasium.wrappers.rendering:RecordVideo", {"video_folder": "videos"}),
        ("gymnasium.wrappers:RecordVideo", {"video_folder": "videos"}),
        ("gymnasium.wrappers.rendering:HumanRendering", {}),
        ("gymnasium.wrappers.transform_observation:TransformObservation", {"func": "os:system"}),
        ("gymnasium.wrappers.stateful_observation:FrameStackObservation", {"stack_size": 10**9}),
        ("gymnasium.wrappers.transform_observation:ResizeObservation", {"shape": [10**5, 10**5]}),
        ("gymnasium.wrappers.common:TimeLimit", {"max_episode_steps": "../x"}),
        ("gymnasium.wrappers.common:TimeLimit.__init__", {}),
        ("gymnasium.wrappers.common.os:system", {}),
        ("os:system", {}),
    ],
)
def test_wrappers_that_write_or_grow(name: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_with(additional_wrappers=(WrapperSpec("x", name, arguments),))
    with pytest.raises(DatasetError, match=r"asks for code .*trust=True"):
        env_from_spec(spec, "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [{"xml_file": "/tmp/a.xml"}, {"a": ["../x"]}, {"a": {"b": "c.py"}}, {"f": print}])
def test_arguments_that_may_be_paths(arguments: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="asks for code"):
        env_from_spec(spec_with(kwargs=arguments), "data")


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "changed",
    [
        {"kwargs": [1]},
        {"kwargs": {"unknown": 10**9}},
        {"kwargs": {"g": None, "render_mode": 3}},
        {"max_episode_steps": "x"},
        {"max_episode_steps": -3},
        {"additional_wrappers": (WrapperSpec("x", "gymnasium.wrappers.common:TimeLimit", {"no": 1}),)},
    ],
    ids=str,
)
def test_specs_of_which_nothing_can_be_made_are_named(changed: dict[str, Any], trust: bool) -> None:
    with pytest.raises(DatasetError, match=r"^data (belongs to Pendulum-v1, which cannot be made here|asks for code)"):
        env_from_spec(spec_with(**changed), "data", trust=trust)


def test_harmless_specs_and_trust() -> None:
    wrappers = (
        WrapperSpec("a", "gymnasium.wrappers.transform_action:RescaleAction", {"min_action": -1.0, "max_action": 1}),
        WrapperSpec("b", "gymnasium.wrappers.common:TimeLimit", {"max_episode_steps": 7}),
    )
    env = env_from_spec(spec_with(additional_wrappers=wrappers, kwargs={"g": 9.81}), "data")
    assert env.action_space.high == 1.0  # type: ignore[attr-defined]
    foreign = spec_with(additional_wrappers=(WrapperSpec("x", "gymnasium.wrappers.rendering:RenderCollection", {}),))
    with pytest.raises(DatasetError, match="asks for code"):
        env_from_spec(foreign, "data", render_mode="rgb_array")
    env_from_spec(foreign, "data", trust=True, render_mode="rgb_array")
    with trusting(True):
        env_from_spec(foreign, "data", render_mode="rgb_array")


# --- Minari ---


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("minari")
    from sb3_offline.shell.writing import write_dataset

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    write_dataset(load_dataset(arrays(), env_id="Pendulum-v1"), "local/small-v0")
    assert len(load_dataset("local/small-v0")) == N
    return tmp_path / "store" / "local" / "small-v0" / "data"


def link_out(file: h5py.File) -> None:
    del file["episode_0/rewards"]
    file["episode_0/rewards"] = h5py.ExternalLink("other.h5", "rewards")


def lie_out(file: h5py.File) -> None:
    del file["episode_0/rewards"]
    file.create_dataset("episode_0/rewards", (20,), "f4", external=[("/etc/hostname", 0, 80)])


def grow(file: h5py.File) -> None:
    file.create_dataset("episode_0/infos/x", (10**9,), "f8")


@pytest.mark.parametrize(
    ("change", "message"), [(link_out, "external link"), (lie_out, "lies in another file"), (grow, "zip bomb")]
)
def test_minari_files_are_looked_at_first(change: Callable[[h5py.File], Any], message: str, store: Path) -> None:
    with h5py.File(store / "main_data.hdf5", "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=message):
        load_dataset("local/small-v0")


def test_minari_links_and_spaces(store: Path) -> None:
    metadata = json.loads((store / "metadata.json").read_text())
    space = json.loads(metadata["observation_space"])
    forged = metadata | {"observation_space": json.dumps(space | {"shape": [10**9], "low": [0.0], "high": [1.0]})}
    (store / "metadata.json").write_text(json.dumps(forged))
    with pytest.raises(DatasetError, match="fewer bounds"):
        load_dataset("local/small-v0")
    (store / "metadata.json").write_text(json.dumps(metadata | {"ref_min_score": float("nan")}))
    with pytest.raises(DatasetError, match="ref_min_score is nan"):
        load_dataset("local/small-v0")
    (store / "metadata.json").write_text(json.dumps(metadata))
    shutil.move(store / "main_data.hdf5", store.parent / "away.hdf5")
    (store / "main_data.hdf5").symlink_to(store.parent / "away.hdf5")
    with pytest.raises(DatasetError, match="is a link"):
        load_dataset("local/small-v0")


# --- tables, and files with holes ---


def equal_rows(path: Path, n_rows: int) -> None:
    """A table of one number, which costs a few bytes whatever its length."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    part = pa.table({name: np.zeros(2**20) for name in ("obs_x", "action_x", "reward")})
    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, part.schema, use_dictionary=True, compression="zstd") as writer:
            for _ in range(n_rows // 2**20):
                writer.write_table(part)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(str(path), part.schema, options=options) as writer:
            for _ in range(n_rows // 2**20):
                writer.write_table(part)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_tables_that_ask_for_memory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"log{suffix}"
    equal_rows(path, 12 * 2**20)  # 24 bytes a row: 302 MB
    assert path.stat().st_size < 10**6
    with pytest.raises(DatasetError, match=rf"log\{suffix} would unpack .* as a zip bomb does"):
        load_dataset(path, env_id="Pendulum-v1", columns={"terminations": False})


def repeated(kind: str, n_bytes: int) -> Any:
    """100 rows of long lists or texts of one value."""
    pa = pytest.importorskip("pyarrow")
    if kind == "text":
        return pa.array(["x" * (n_bytes // 100)] * 100)
    offsets = np.arange(101, dtype=np.int32) * (n_bytes // 800)
    values = pa.ListArray.from_arrays(offsets, np.zeros(offsets[-1]))
    return values if kind == "list" else pa.StructArray.from_arrays([values], ["x"])


@pytest.mark.parametrize("kind", ["list", "text", "struct"])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_lists_and_texts_that_ask_for_memory(suffix: str, kind: str, tmp_path: Path) -> None:
    """Of any length, and packed: neither the rows nor the bytes on disk tell."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    for n_bytes in (10**6, 3 * 10**8):
        rest = {"action": np.arange(100.0), "reward": np.zeros(100), "done": np.zeros(100, bool)}
        table = pa.table({"obs": repeated(kind, n_bytes), **rest})
        path = tmp_path / f"log{suffix}"
        if suffix == ".parquet":
            pq.write_table(table, path, compression="zstd")
        else:
            with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
                writer.write_table(table)
        assert path.stat().st_size < 10**6
        if n_bytes < 10**8:
            Frame(path)
            continue
        with pytest.raises(DatasetError, match=rf"log\{suffix} would unpack .* as a zip bomb does"):
            Frame(path)


def test_long_categories_are_not_written_out() -> None:
    """A thousand rows of one text of 1 MB are a thousand numbers."""
    pa = pytest.importorskip("pyarrow")

    usual = pa.default_memory_pool()
    counted = pa.system_memory_pool()  # which nothing else uses
    pa.set_memory_pool(counted)
    try:
        column = pa.chunked_array([pa.DictionaryArray.from_arrays(np.arange(1000) % 2, ["x" * 10**6, "y"])])
        assert codes(column, ("y", "x" * 10**6)).tolist() == [1, 0] * 500
    finally:
        pa.set_memory_pool(usual)
    assert 10**6 <= counted.max_memory() < 10**7


def test_what_an_arrow_file_unpacks_to(tmp_path: Path) -> None:
    """Buffers that packing makes smaller, those that it does not, and those of a dictionary: 8 bytes a number, 1 a letter."""
    pa = pytest.importorskip("pyarrow")

    rng = np.random.default_rng(0)
    numbers = {"zeros": np.zeros(1000), "noise": rng.integers(2**62, size=1000)}
    text = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["a" * 96])
    for packing in (None, "zstd", "lz4"):
        with pa.ipc.new_file(
            str(tmp_path / "a.arrow"),
            pa.table({**numbers, "text": text}).schema,
            options=pa.ipc.IpcWriteOptions(compression=packing),
        ) as writer:
            writer.write_table(pa.table({**numbers, "text": text}))
        assert 0 <= unpacked_bytes(tmp_path / "a.arrow") - (8000 + 8000 + 4000 + 96 + 8) < 64  # ends are filled up to 8
    for content in (b"", b"ARROW1", (tmp_path / "a.arrow").read_bytes()[:-20]):
        (tmp_path / "b.arrow").write_bytes(content)
        with pytest.raises(DatasetError, match=r"b\.arrow is no Arrow file"):
            unpacked_bytes(tmp_path / "b.arrow")


def test_text_that_asks_for_memory(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with gzip.open(tmp_path / "log.csv.gz", "wb", compresslevel=9) as file:
        file.write(b"obs_x,action_x,reward\n")
        for _ in range(270):
            file.write(b"0,0,0" + b" " * 999_994 + b"\n")
    with pytest.raises(DatasetError, match=r"log\.csv\.gz would unpack .* as a zip bomb does"):
        load_dataset(tmp_path / "log.csv.gz", env_id="Pendulum-v1", columns={"terminations": False})


def with_hole(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
    if path.stat().st_blocks * 512 > size // 2:
        pytest.skip("this file system keeps no holes")


def test_holes_are_no_data(tmp_path: Path) -> None:
    data = load_dataset(arrays(), env_id="Pendulum-v1")
    folder = tmp_path / "log.mmap"
    save_mapped(data, folder)
    assert len(load_dataset(folder)) == N
    header = np.lib.format.header_data_from_array_1_0(np.zeros((0, 3), np.float32)) | {"shape": (10**8, 3)}
    with (folder / "observations.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
    with_hole(folder / "observations.npy", start + 12 * 10**8)
    with pytest.raises(DatasetError, match=r"observations\.npy would unpack .* as a zip bomb does"):
        load_dataset(folder)
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as file:
        for key, value in arrays().items():
            file[key] = value
        file.create_dataset("timeouts", (4 * 10**8,), dtype=bool)
    with_hole(path, 2 * 10**9)
    with pytest.raises(DatasetError, match="zip bomb"):
        load_dataset(path, env_id="Pendulum-v1")


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_minari_tables_are_looked_at_first(form: str, tmp_path: Path) -> None:
    from sb3_offline.datasets.sources.minari_safety import check_minari_arrays

    (tmp_path / "0").mkdir()
    equal_rows(tmp_path / "0" / f"part-0.{form}", 2**20)
    check_minari_arrays(tmp_path)
    equal_rows(tmp_path / "0" / f"part-0.{form}", 12 * 2**20)
    with pytest.raises(DatasetError, match="zip bomb"):
        check_minari_arrays(tmp_path)


@pytest.mark.parametrize("text", ["{'descr': '<f4', 'fortran_order': False, 'shape': (60,", '{\'descr\': """', "((((" * 20])
def test_headers_that_are_no_python(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "log.mmap"
    save_mapped(load_dataset(arrays(), env_id="Pendulum-v1"), folder)
    header = f"{text:<117}\n".encode()
    (folder / "rewards.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4 * N))
    with pytest.raises(DatasetError, match=r"rewards\.npy: not a \.npy file of numbers"):
        load_dataset(folder)


# --- folders of others: pipes, links ---

INFO = json.dumps({"features": {"obs": 1, "acts": 1, "terminal": 1}})
STATE = json.dumps({"_data_files": [{"filename": "d.arrow"}]})


def trajectory(path: Path, n: int = 3, **options: Any) -> Path:
    """A stream of Arrow's with one trajectory of n steps, as imitation saves it."""
    pa = pytest.importorskip("pyarrow")
    steps = np.arange(n, dtype=float) / n
    columns = {"obs": [np.append(steps, 1.0)[:, None].tolist()], "acts": [steps[:, None].tolist()], "rews": [steps.tolist()]}
    table = pa.table(columns | {"terminal": [True]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema, **options) as writer:
        writer.write_table(table)
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
@pytest.mark.parametrize("pipe", ["dataset_info.json", "state.json", "d.arrow"])
def test_pipes_in_a_folder_of_trajectories(pipe: str, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(INFO)
    (tmp_path / "state.json").write_text(STATE)
    trajectory(tmp_path / "d.arrow")
    assert len(load_dataset(tmp_path)) == 3
    (tmp_path / pipe).unlink()
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(DatasetError):
        load_dataset(tmp_path)


def test_links_out_of_a_folder_of_trajectories(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "dataset_info.json").write_text(INFO)
    (tmp_path / "log" / "state.json").write_text(STATE)
    (tmp_path / "log" / "d.arrow").symlink_to(trajectory(tmp_path / "elsewhere.arrow"))
    with pytest.raises(DatasetError, match=r"'d\.arrow', and there is no such file in the folder"):
        load_dataset(tmp_path / "log")


def test_a_packed_stream_that_asks_for_memory(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    n = 10**4
    packed = trajectory(tmp_path / "d.arrow", n, options=pa.ipc.IpcWriteOptions(compression="zstd"))
    for path in (
        packed,
        trajectory(tmp_path / "plain.arrow", n),
    ):  # of three numbers of 8 bytes two are lists, whose offset is 4
        assert unpacked_stream_bytes(path) == pytest.approx(32 * n, rel=0.01)
    zeros = pa.ListArray.from_arrays(np.array([0, 4 * 10**7], np.int32), np.zeros(4 * 10**7))  # 320 MB
    batch = pa.record_batch([zeros], names=["obs"])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(packed), "wb") as file, pa.ipc.new_stream(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    (tmp_path / "dataset_info.json").write_text(INFO)
    (tmp_path / "state.json").write_text(STATE)
    with pytest.raises(DatasetError, match="as a zip bomb does"):
        load_dataset(tmp_path)
    (tmp_path / "b.arrow").write_bytes(packed.read_bytes()[:90])
    with pytest.raises(DatasetError, match="no stream"):
        unpacked_stream_bytes(tmp_path / "b.arrow")


def test_links_out_of_a_folder_of_tables(tmp_path: Path) -> None:
    """But for those of Hugging Face's cache, whose snapshots are links to its blobs."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs" / "abc"
    rng = np.random.default_rng(0)
    pq.write_table(pa.table({name: rng.normal(size=9) for name in ("obs_x", "action_x", "reward")}), blob)
    columns = {"observations": ["obs_x"], "actions": ["action_x"], "rewards": "reward", "terminations": False}
    for name, fits in (("log", False), ("snapshots/1/data", True)):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "a.parquet").symlink_to(blob)
        if fits:
            assert len(load_dataset(folder, columns=columns)) == 8
        else:
            with pytest.raises(DatasetError, match=r"a\.parquet is a link to .*abc"):
                load_dataset(folder, columns=columns)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_pipes_where_yaml_is_expected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.yaml")
    with pytest.raises(DatasetError, match="a pipe"):
        parse_columns(tmp_path / "p.yaml", ["x"], "log")
    with pytest.raises(StudyError, match="a pipe"):
        read_study(tmp_path / "p.yaml")
