"""Minari's formats, spaces, ids and specs, written by Minari's own writer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from sb3_offline.cli import main
from sb3_offline.datasets import DatasetError, load_dataset, mapped, open_dataset
from sb3_offline.datasets.sources import converting
from tests.datasets.mutations import assert_refused_or_well_formed

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore")
OBSERVATION, ACTION = spaces.Box(-9, 9, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)


def observe(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)


def act(n: int) -> np.ndarray:
    return np.random.default_rng(n).uniform(-1, 1, (n, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


def create(
    dataset_id: str,
    observation_space: spaces.Space = OBSERVATION,
    observations: Callable[[int], Any] = observe,
    action_space: spaces.Space = ACTION,
    actions: Callable[[int], Any] = act,
    data_format: str = "hdf5",
    env: gym.Env | None = None,
) -> None:
    """Episodes of 3 to 5 rows; the second one is cut."""
    minari.create_dataset_from_buffers(
        dataset_id,
        [
            minari.data_collector.EpisodeBuffer(
                id=number,
                observations=observations(n + 1),
                actions=actions(n),
                rewards=[float(number)] * n,
                terminations=[False] * (n - 1) + [number != 1],
                truncations=[False] * (n - 1) + [number == 1],
            )
            for number, n in enumerate((3, 4, 5))
        ],
        env=env,
        observation_space=observation_space,
        action_space=action_space,
        data_format=data_format,
    )


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_every_format(data_format: str) -> None:
    pytest.importorskip("pyarrow")
    create("space/test-v0", data_format=data_format)
    data = load_dataset("space/test-v0")
    np.testing.assert_array_equal(data.observations, np.concatenate([observe(n + 1)[:-1] for n in (3, 4, 5)]))
    np.testing.assert_array_equal(data.next_observations, np.concatenate([observe(n + 1)[1:] for n in (3, 4, 5)]))
    np.testing.assert_array_equal(data.actions, np.concatenate([act(n) for n in (3, 4, 5)]))
    assert np.flatnonzero(data.terminations).tolist() == [2, 11]
    assert np.flatnonzero(data.truncations).tolist() == [6]


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (spaces.Discrete(3, start=2), lambda n: np.arange(n) % 3 + 2),
        (spaces.MultiDiscrete([3, 2]), lambda n: np.stack([np.arange(n) % 3, np.arange(n) % 2], axis=1)),
        (spaces.MultiBinary(3), lambda n: (np.arange(3 * n).reshape(n, 3) % 2).astype(np.int8)),
    ],
)
@pytest.mark.parametrize("data_format", ["hdf5", "parquet"])
def test_discrete_spaces(space: spaces.Space, values: Callable[[int], Any], data_format: str) -> None:
    pytest.importorskip("pyarrow")
    create("space/test-v0", action_space=space, actions=values, data_format=data_format)
    data = load_dataset("space/test-v0")
    assert data.action_space == space
    np.testing.assert_array_equal(data.actions, np.concatenate([values(n) for n in (3, 4, 5)]))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_dict_observations(data_format: str) -> None:
    pytest.importorskip("pyarrow")
    space = spaces.Dict({"state": OBSERVATION, "goal": ACTION})
    create("space/test-v0", space, lambda n: {"state": observe(n), "goal": act(n)}, data_format=data_format)
    data = load_dataset("space/test-v0")
    np.testing.assert_array_equal(data.observations["goal"][:3], act(4)[:-1])
    np.testing.assert_array_equal(data.next_observations["state"][:3], observe(4)[1:])


@pytest.mark.parametrize(
    ("space", "observations", "said"),
    [
        (spaces.Dict({"a": spaces.Dict({"b": OBSERVATION})}), lambda n: {"a": {"b": observe(n)}}, r"observations\['a'\]"),
        (spaces.Tuple((OBSERVATION, OBSERVATION)), lambda n: (observe(n), observe(n)), "Tuple"),
        (
            spaces.Dict({"a": OBSERVATION, "text": spaces.Text(9)}),
            lambda n: {"a": observe(n), "text": ["go"] * n},
            r"\['text'\]",
        ),
    ],
)
def test_spaces_that_cannot_be_learned_from_are_refused_by_key(
    space: spaces.Space, observations: Callable[[int], Any], said: str
) -> None:
    create("space/test-v0", space, observations)
    with pytest.raises(DatasetError, match=said):
        load_dataset("space/test-v0")


def test_images_that_minari_packed_as_jpeg() -> None:
    smooth = np.broadcast_to(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], (24, 24, 3))
    create("space/test-v0", spaces.Box(0, 255, (24, 24, 3), np.uint8), lambda n: np.stack([smooth] * n))
    data = load_dataset("space/test-v0")
    assert data.observations.shape == (12, 24, 24, 3)
    assert data.observations.dtype == np.uint8
    assert np.abs(data.observations.astype(int) - smooth).max() <= 10  # JPEG loses a little


def test_an_id_without_a_version_is_the_newest_one() -> None:
    for version in (0, 2, 10):
        create(f"a/b/c/test-v{version}", observations=lambda n, v=version: observe(n) + v)
    with pytest.warns(UserWarning, match="a/b/c/test names no version: a/b/c/test-v10, the newest one, is taken"):
        data = load_dataset("a/b/c/test")
    assert data.info.dataset_id == "a/b/c/test-v10"
    assert load_dataset("a/b/c/test-v2").info.dataset_id == "a/b/c/test-v2"


def test_a_set_that_was_stored_without_a_version(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create("space/test-v0")
    shutil.copytree(store / "space" / "test-v0", store / "space" / "bare")
    path = store / "space" / "bare" / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset_id": "space/bare"}))
    with pytest.raises(TypeError):
        minari.list_local_datasets()  # Minari itself fails on it
    assert load_dataset("space/bare").fingerprint() == load_dataset("space/test-v0").fingerprint()
    assert main(["datasets"]) == 0
    assert "space/bare" in capsys.readouterr().out


@pytest.mark.parametrize("wrapper", [Monitor, gym.wrappers.RecordEpisodeStatistics])
def test_recorders_in_a_spec_are_no_obstacle(wrapper: Callable[[gym.Env], gym.Env]) -> None:
    actions = spaces.Box(-2, 2, (1,), np.float32)
    create("space/test-v0", action_space=actions, actions=lambda n: act(n)[:, :1], env=wrapper(gym.make("Pendulum-v1")))
    info = open_dataset("space/test-v0").info
    env = info.make_env()
    env.reset(seed=0)
    assert env.unwrapped.spec.id == "Pendulum-v1"


def test_nothing_is_fetched_unless_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def fetch(dataset_id: str) -> None:
        asked.append(dataset_id)
        create(dataset_id.removeprefix("hf://someone/"))

    monkeypatch.setattr(minari, "download_dataset", fetch)
    with pytest.raises(DatasetError, match="not in the local Minari store"):
        load_dataset("hf://someone/space/test-v0")
    assert asked == []
    assert main(["datasets", "download", "hf://someone/space/test-v0"]) == 0
    assert "space/test-v0 is in the local Minari store" in capsys.readouterr().out
    assert main(["datasets", "download", "space/other-v1"]) == 0
    assert len(load_dataset("space/other-v1", download=True)) == 12  # there already
    assert asked == ["hf://someone/space/test-v0", "space/other-v1"]
    assert len(load_dataset("hf://someone/space/test-v0")) == 12


def test_a_download_that_fails_says_of_what(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: str) -> None:
        raise ConnectionError("no route to the server")

    monkeypatch.setattr(minari, "download_dataset", fail)
    with pytest.raises(DatasetError, match=r"space/test-v0: .* cannot be opened or fetched: no route to the server"):
        load_dataset("hf://someone/space/test-v0", download=True)
    assert main(["datasets", "download", "space/test-v0"]) == 2
    assert "no route to the server" in capsys.readouterr().err


def test_the_newest_version_is_downloaded_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(dataset_id: str) -> None:
        asked.append(dataset_id)
        create(dataset_id)

    monkeypatch.setattr(minari, "list_remote_datasets", lambda prefix: {f"{prefix}-v{n}": {} for n in (1, 9, 10)})
    monkeypatch.setattr(minari, "download_dataset", fetch)
    with pytest.warns(UserWarning, match="space/test-v10, the newest one, is taken"):
        assert len(load_dataset("space/test", download=True)) == 12
    assert asked == ["space/test-v10"]


def test_sets_of_other_versions_of_minari(store: Path) -> None:
    """Of the same layout they are read, and of another refused by their version."""
    create("space/test-v0")
    rows = load_dataset("space/test-v0").fingerprint()
    path = store / "space" / "test-v0" / "data" / "metadata.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "minari_version": "0.5.0"}))
    assert load_dataset("space/test-v0").fingerprint() == rows
    path.write_text(json.dumps({**facts, "minari_version": "99.0"}))
    with pytest.raises(DatasetError, match=r"space/test-v0: .*generated by Minari 99\.0"):
        load_dataset("space/test-v0")


def test_a_minari_set_streams_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "BLOCK_ROWS", 5)
    create("space/test-v0")
    source = open_dataset("space/test-v0")
    assert len(list(source.blocks(tmp_path))) > 2
    converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    assert load_dataset(tmp_path / "log.mmap").fingerprint() == source.load().fingerprint()


def test_what_is_written_to_minari_is_right_by_its_own_tools() -> None:
    assert main(["convert", "Pendulum-medium-v0", "space/pendulum-v0"]) == 0
    own, written = load_dataset("Pendulum-medium-v0"), minari.load_dataset("space/pendulum-v0")
    assert written.total_steps == len(own)
    assert set(minari.list_local_datasets()) == {"space/pendulum-v0"}
    rows = 0
    for episode in written.iterate_episodes():
        assert written.observation_space.contains(episode.observations[0])
        assert all(written.action_space.contains(action) for action in episode.actions)
        assert len(episode.observations) == len(episode.actions) + 1
        rows += len(episode)
    assert rows == len(own)
    np.testing.assert_array_equal(load_dataset("space/pendulum-v0").rewards, own.rewards)
    assert written.recover_environment().unwrapped.spec.id == "Pendulum-v1"


def test_one_flipped_bit_of_a_written_set_is_noticed(store: Path) -> None:
    """In every array: Minari's own files have no checksums."""
    assert main(["convert", "Pendulum-medium-v0", "space/pendulum-v0"]) == 0
    (file,) = (store / "space" / "pendulum-v0").rglob("*.hdf5")
    whole = file.read_bytes()
    with h5py.File(file) as data:
        arrays = [data[f"episode_3/{name}"] for name in ("rewards", "observations", "actions", "terminations")]
        places = [array.id.get_chunk_info(0).byte_offset for array in arrays]
    for place in places:
        file.write_bytes(whole[: place + 8] + bytes([whole[place + 8] ^ 1]) + whole[place + 9 :])
        with pytest.raises(DatasetError, match="damaged"):
            load_dataset("space/pendulum-v0")
    file.write_bytes(whole)
    load_dataset("space/pendulum-v0")


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_damaged_sets_are_refused_or_well_formed(data_format: str, store: Path) -> None:
    pytest.importorskip("pyarrow")
    create("space/test-v0", data_format=data_format)
    files = sorted(path for path in (store / "space" / "test-v0" / "data").rglob("*") if path.is_file())
    refused = [
        assert_refused_or_well_formed(path, lambda _: load_dataset("space/test-v0"), 200 // len(files), name="test-v0")
        for path in files
    ]
    assert sum(refused) >= 60


def test_a_damaged_type_does_not_end_the_process(store: Path) -> None:
    """A changed byte makes a union of a column of bools, over which pyarrow's count of rows crashes."""
    pa = pytest.importorskip("pyarrow")
    create("space/test-v0", data_format="arrow")
    path = store / "space" / "test-v0" / "data" / "0" / "part-0.arrow"
    schema = pa.schema([("a", pa.list_(pa.sparse_union([])))])
    with pa.ipc.new_file(path, schema):
        pass
    with pytest.raises(DatasetError, match=r"part-0.arrow: column 'a' is of type .*union.*: the file is damaged"):
        load_dataset("space/test-v0")
