"""Minari data sets of a small local store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from sb3_offline.datasets import DatasetError, load_dataset, make_env, open_dataset

minari = pytest.importorskip("minari")
ID = "sandbox/pendulum/short-v0"


def episode(length: int, start: float, *, terminated: bool) -> Any:
    buffer = minari.data_collector.EpisodeBuffer
    observations = np.stack([np.arange(length + 1) / 100 + start] * 3, axis=1).astype(np.float32)
    ended = [False] * (length - 1) + [True]
    never = [False] * length
    return buffer(
        observations=observations,
        actions=np.linspace(-2, 2, length, dtype=np.float32).reshape(-1, 1),
        rewards=[float(i + 1) for i in range(length)],
        terminations=ended if terminated else never,
        truncations=never if terminated else ended,
    )


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    running = episode(2, 0.6, terminated=False)
    running.truncations[-1] = False  # still running when the collection stopped
    minari.create_dataset_from_buffers(
        ID,
        [episode(3, 0.0, terminated=True), episode(4, 0.3, terminated=False), running],
        env=gym.make("Pendulum-v1"),
        algorithm_name="by hand",
        description="three episodes",
        ref_min_score=-10.0,
        ref_max_score=30.0,
    )
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("name", [ID, "minari/sandbox.pendulum.short-v0"])
def test_episodes_become_rows(name: str) -> None:
    data: Any = load_dataset(name)
    assert data.info.dataset_id == ID
    assert data.episode_lengths().tolist() == [3, 4, 2]
    assert data.episode_returns().tolist() == [6.0, 10.0, 3.0]
    np.testing.assert_allclose(data.observations[:, 0], [0, 0.01, 0.02, 0.3, 0.31, 0.32, 0.33, 0.6, 0.61], atol=1e-6)
    np.testing.assert_allclose(data.next_observations[:, 0], data.observations[:, 0] + 0.01, atol=1e-6)
    assert np.flatnonzero(data.terminations).tolist() == [2]
    assert np.flatnonzero(data.truncations).tolist() == [6, 8]
    assert data.valid_next.all()


@pytest.mark.filterwarnings("ignore")
def test_info_needs_no_arrays_and_its_own_references_win(store: Path) -> None:
    (store / ID / "data" / "main_data.hdf5").write_bytes(b"broken")
    source: Any = open_dataset(ID)
    assert source.info.env_spec.id == "Pendulum-v1"
    assert source.info.action_space == gym.make("Pendulum-v1").action_space
    assert source.info.normalized_score(10.0) == 50.0
    assert source.info.card["algorithm_name"] == "by hand"
    with pytest.raises(DatasetError, match=f"{ID}: the Minari data are damaged"):
        source.load()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("store")
def test_a_minari_object_and_a_selection_of_its_episodes() -> None:
    whole = minari.load_dataset(ID)
    assert load_dataset(whole).fingerprint() == load_dataset(ID).fingerprint()
    ended = whole.filter_episodes(lambda e: e.terminations[-1])
    assert load_dataset(ended).episode_returns().tolist() == [6.0]
    nothing = whole.filter_episodes(lambda _: False)
    with pytest.raises(DatasetError, match="the data are empty"):
        load_dataset(nothing)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("store")
def test_make_env_knows_its_data() -> None:
    env: Any = make_env(ID)
    assert env.spec.id == "Pendulum-v1"
    assert len(env.unwrapped.get_dataset()) == 9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("store")
def test_ids_that_are_wrong() -> None:
    with pytest.raises(DatasetError, match=r"'sandbox/pendulum/shrt' is not a data set.*with its version.*here: sandb"):
        open_dataset("sandbox/pendulum/shrt")
    with pytest.raises(DatasetError, match=r"not in the local Minari store.*Near it, and here: sandbox/pendulum/short-v0"):
        open_dataset("sandbox/pendulum/shot-v0")
    with pytest.raises(DatasetError, match=r"minari list remote.*minari download mujoco/hopper/medium-v0.*download=True"):
        open_dataset("mujoco/hopper/medium-v0")
    with pytest.raises(DatasetError, match=r"`sb3-offline datasets download hf://farama-minari/d4rl/door/human-v2`, or downl"):
        open_dataset("hf://farama-minari/d4rl/door/human-v2")  # from that server, not from Minari's own
    with pytest.raises(DatasetError, match=r"Near it, and here: Pendulum-medium-v0"):
        open_dataset("sb3_offline/Pendulum-medum-v0")
    with pytest.raises(DatasetError, match=r"no gymnasium id.*here: Pendulum-v1 \(a task, not data\), .*Pendulum-medium-v0"):
        open_dataset("Pendulm-v1")
    with pytest.raises(DatasetError, match="'Pendulum-v1' is an environment, not a data set"):
        open_dataset("Pendulum-v1")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("store")
def test_download_is_tried_only_when_asked() -> None:
    with pytest.raises(DatasetError, match="cannot be opened or fetched"):
        open_dataset("mujoco/hopper/medium-v0", download=True)


def edit_metadata(store: Path, **changes: Any) -> None:
    path = store / ID / "data" / "metadata.json"
    metadata = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in metadata.items() if value is not None}))


@pytest.mark.filterwarnings("ignore")
def test_an_env_spec_in_the_data_runs_no_foreign_code(store: Path) -> None:
    spec = json.loads(gym.spec("Pendulum-v1").to_json()) | {
        "entry_point": "os:mkdir",
        "kwargs": {"path": str(store / "trace")},
    }
    edit_metadata(store, env_spec=json.dumps(spec))
    data: Any = load_dataset(ID)  # the spaces are in the metadata
    with pytest.raises(DatasetError, match=r"not registered for Pendulum-v1: os:mkdir"):
        data.make_env()
    edit_metadata(store, observation_space=None)
    with pytest.raises(DatasetError, match="its metadata hold no spaces"):
        load_dataset(ID)
    assert not (store / "trace").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_store(store: Path) -> None:
    (store / ID / "data" / "metadata.json").write_text("{")
    with pytest.raises(DatasetError, match=f"{ID}: the installed data are damaged"):
        open_dataset(ID)


def test_an_episode_without_its_last_observation(store: Path) -> None:
    (file,) = store.rglob("*.hdf5")
    with h5py.File(file, "a") as data:
        short = data["episode_1/observations"][:-1]
        del data["episode_1/observations"]
        data["episode_1/observations"] = short
    with pytest.raises(DatasetError, match=r"episode 1 holds 4 observations of 4 steps, and needs one more than steps"):
        load_dataset(ID)


def test_minari_is_named_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(DatasetError, match=r'pip install "sb3-offline\[minari\]"'):
        open_dataset("mujoco/hopper/medium-v0")
    assert len(load_dataset("Pendulum-medium-v0")) > 0
