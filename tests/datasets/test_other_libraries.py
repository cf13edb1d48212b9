"""Files of other libraries: read as their own library reads them, and refused by name where they are damaged."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC

from sb3_offline.datasets import DatasetError, load_dataset
from tests.datasets.mutations import assert_refused_or_well_formed

FIXTURES = Path(__file__).parent / "fixtures"
pytestmark = pytest.mark.filterwarnings("ignore:.*spaces as the data suggest")


def test_d3rlpy_as_d3rlpy_trains_on_it() -> None:
    """Both files were written by d3rlpy 2.8.1, which also picked the transitions."""
    for name in ("continuous", "images"):
        data = load_dataset(FIXTURES / f"d3rlpy_{name}.h5")
        with np.load(FIXTURES / f"d3rlpy_{name}_transitions.npz") as own:
            known = data.valid_next  # of a terminal row d3rlpy makes zeros up
            np.testing.assert_array_equal(data.observations, own["observation"])
            np.testing.assert_array_equal(data.next_observations[known], own["next_observation"][known])
            np.testing.assert_array_equal(data.actions.reshape(len(data), -1), own["action"])
            np.testing.assert_array_equal(data.rewards, own["reward"][:, 0])
            np.testing.assert_array_equal(data.terminations, own["terminal"] != 0)
            assert known.sum() == (own["terminal"] == 0).sum()
    assert data.action_space == spaces.Discrete(4)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rewards_1", None, "rewards_1 is missing"),
        ("rewards_1", np.zeros((7, 1)), "episode 1 has 8 actions, 7 rewards and \\[8\\] observations"),
        ("observations_2", np.zeros((8, 4), np.float32), "the episodes' arrays differ in shape"),
        ("rewards_0", np.full((8, 1), np.nan), "rewards hold NaN"),
        ("observations_0", np.full((8, 3), np.nan), "observations hold NaN or inf in row 0, counted over all"),
        ("num_episodes", 10**9, "says that it holds 1000000000 episodes"),
        ("num_episodes", 4, "observations_3 is missing"),
        ("actions_0", 3.0, r"actions_0 has shape \(\)"),
    ],
)
def test_malformed_d3rlpy_is_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    path = tmp_path / "log.h5"
    path.write_bytes((FIXTURES / "d3rlpy_continuous.h5").read_bytes())
    with h5py.File(path, "a") as file:
        del file[key]
        if value is not None:
            file[key] = value
    with pytest.raises(DatasetError, match=said):
        load_dataset(path)


def write_robomimic(path: Path, next_obs: bool = True) -> dict[str, np.ndarray]:
    """As robomimic's documentation lays files out: two demonstrations, the tenth of which was listed before the second."""
    rng = np.random.default_rng(0)
    whole: dict[str, list[np.ndarray]] = {"eef": [], "image": [], "actions": [], "next": []}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for number in (10, 2):
            demo = data.create_group(f"demo_{number}")
            eef = rng.normal(size=(number + 1, 3))
            image = rng.integers(256, size=(number + 1, 6, 6, 3), dtype=np.uint8)
            demo.attrs["num_samples"] = number
            demo["obs/eef"], demo["obs/image"] = eef[:-1], image[:-1]
            if next_obs:
                demo["next_obs/eef"], demo["next_obs/image"] = eef[1:], image[1:]
            demo["actions"] = rng.uniform(-1, 1, (number, 2))
            demo["rewards"] = np.eye(number)[-1]
            demo["dones"] = np.arange(1, number + 1) == number
            whole["eef"].insert(0, eef[:-1])
            whole["image"].insert(0, image[:-1])
            whole["next"].insert(0, eef[1:])
            whole["actions"].insert(0, demo["actions"][()])
    return {name: np.concatenate(parts) for name, parts in whole.items()}


def test_robomimic(tmp_path: Path) -> None:
    expected = write_robomimic(tmp_path / "lift.hdf5")
    data = load_dataset(tmp_path / "lift.hdf5")
    np.testing.assert_array_equal(data.observations["eef"], expected["eef"].astype(np.float32))
    np.testing.assert_array_equal(data.observations["image"], expected["image"])
    np.testing.assert_array_equal(data.next_observations["eef"], expected["next"].astype(np.float32))
    np.testing.assert_array_equal(data.actions, expected["actions"].astype(np.float32))
    assert np.flatnonzero(data.terminations).tolist() == [1, 11]  # demo_2 comes before demo_10
    assert data.info.card["robomimic_env"] == "Lift"
    vectors = load_dataset(tmp_path / "lift.hdf5", columns={"observations": ["eef"]})
    np.testing.assert_array_equal(vectors.observations, expected["eef"].astype(np.float32))
    with pytest.raises(DatasetError, match=r"'eff' among observations, which is no column. Near it: 'eef'"):
        load_dataset(tmp_path / "lift.hdf5", columns={"observations": ["eff"]})
    with pytest.raises(DatasetError, match="columns= names observations alone"):
        load_dataset(tmp_path / "lift.hdf5", columns={"rewards": "rewards"})
    write_robomimic(tmp_path / "short.hdf5", next_obs=False)
    short = load_dataset(tmp_path / "short.hdf5", columns={"observations": ["eef"]})
    assert len(short) == 12
    assert (~short.valid_next).sum() == 2


@pytest.mark.parametrize(
    ("key", "said"),
    [("obs", "demo_2 has no group 'obs'"), ("rewards", "demo_2 has no 'rewards'"), ("obs/eef", "demo_10/obs has no 'eef'")],
)
def test_malformed_robomimic_is_refused(tmp_path: Path, key: str, said: str) -> None:
    write_robomimic(tmp_path / "lift.hdf5")
    with h5py.File(tmp_path / "lift.hdf5", "a") as file:
        del file[f"data/demo_{10 if '/' in key else 2}/{key}"]
    columns = {"observations": ["eef"]}
    with pytest.raises(DatasetError, match=said):
        load_dataset(tmp_path / "lift.hdf5", columns=None if key == "obs" else columns)


def write_lerobot(folder: Path, features: dict[str, str], **more: list[Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    n = 12
    kinds = {"observation.state": "float32", "action": "float32", "episode_index": "int64", "frame_index": "int64", **features}
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    info = {
        "codebase_version": "v3.0",
        "fps": 30,
        "robot_type": "so101",
        "features": {k: {"dtype": d} for k, d in kinds.items()},
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    state = np.arange(24, dtype=np.float32).reshape(n, 2)
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 2),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(np.sin(state.ravel())), 2),
        "episode_index": np.arange(n) // 6,
        "frame_index": np.arange(n) % 6,
        "timestamp": np.arange(n) % 6 / 30,
        **more,
    }
    for number in range(2):
        table = pa.table(columns).slice(6 * number, 6)
        pq.write_table(table, folder / "data" / "chunk-000" / f"file-00{number}.parquet")


def test_lerobot(tmp_path: Path) -> None:
    done, reward = [i % 6 == 5 for i in range(12)], [float(i) for i in range(12)]
    features = {"next.reward": "float32", "next.done": "bool", "observation.images.top": "video"}
    write_lerobot(tmp_path / "push", features, **{"next.reward": reward, "next.done": done})
    with pytest.raises(
        DatasetError, match=r"do not say what the terminations are.*'next.done' if that says where the task ended"
    ):
        load_dataset(tmp_path / "push")
    data = load_dataset(tmp_path / "push", columns={"terminations": "next.done"})
    assert data.rewards.tolist() == reward
    assert np.flatnonzero(data.terminations).tolist() == [5, 11]
    np.testing.assert_array_equal(data.observations[:2], [[0, 1], [2, 3]])
    assert "not read: observation.images.top" in data.info.card["reading"]
    assert data.info.card["robot_type"] == "so101"
    assert len(load_dataset(tmp_path / "push", columns={"terminations": False})) == 10
    write_lerobot(tmp_path / "bare", {})
    with pytest.raises(DatasetError, match="do not say what the rewards and terminations are"):
        load_dataset(tmp_path / "bare")
    columns = {"terminations": True, "rewards": lambda rows: np.cos(rows["frame_index"])}
    np.testing.assert_allclose(load_dataset(str(tmp_path / "bare"), columns=columns).rewards[:2], [1, np.cos(1)], rtol=1e-6)
    info = json.loads((tmp_path / "bare/meta/info.json").read_text())
    (tmp_path / "bare/meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(DatasetError, match=r"LeRobot's version v2\.1; 3 is read"):
        load_dataset(tmp_path / "bare", columns=columns)
    (tmp_path / "bare/meta/info.json").write_text("{")
    with pytest.raises(DatasetError, match="may be damaged"):
        load_dataset(tmp_path / "bare", columns=columns)


def write_cameras(folder: Path, starts: list[float]) -> None:
    """Two episodes in one video each; the table of episodes as LeRobot 0.4 writes it, of which the video is a stand-in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_lerobot(folder, {"observation.images.top": "video"})
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"]["shape"] = [4, 6, 3]
    (folder / "meta/info.json").write_text(json.dumps(info))
    key = "videos/observation.images.top"
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / key / "chunk-000").mkdir(parents=True)
    places = {"chunk_index": [0, 0], "file_index": [0, 1], "from_timestamp": starts}
    table = pa.table({"episode_index": [0, 1], **{f"{key}/{name}": values for name, values in places.items()}})
    pq.write_table(table, folder / "meta/episodes/chunk-000/file-000.parquet")
    for number in range(2):
        (folder / key / "chunk-000" / f"file-00{number}.mp4").write_bytes(bytes([number]) * 1000)


def stand_in_decoder(video: Path, seconds: list[float], tolerance: float) -> torch.Tensor:
    """As LeRobot's: each frame tells its file and its place in it, at 30 a second."""
    assert tolerance == 1e-4  # that of LeRobot's own data sets
    frames = torch.zeros(len(seconds), 3, 4, 6)
    frames[:, 0] = video.read_bytes()[0] / 255
    frames[:, 1, 1, 2] = torch.tensor(seconds).mul(30).round() / 255
    return frames


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lerobot", "lerobot.datasets", "lerobot.datasets.video_utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["lerobot.datasets.video_utils"].decode_video_frames = stand_in_decoder  # type: ignore[attr-defined]


CAMERA = {"state": "observation.state", "top": "observation.images.top"}


def test_videos_of_lerobot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cameras(tmp_path / "push", [0.0, 2.0])
    columns = {"observations": CAMERA, "terminations": True, "rewards": lambda rows: rows["frame_index"]}
    monkeypatch.setitem(sys.modules, "lerobot.datasets.video_utils", None)  # not installed
    with pytest.raises(DatasetError, match=r"images.top is a video.*pip install .*lerobot.*Or leave it out of columns="):
        load_dataset(tmp_path / "push", columns=columns)
    stand_in(monkeypatch)
    data = load_dataset(tmp_path / "push", columns=columns)
    assert data.observation_space["top"] == spaces.Box(0, 255, (4, 6, 3), np.uint8)
    assert data.observations["top"][:, 0, 0, 0].tolist() == [0] * 6 + [1] * 6
    assert data.observations["top"][:, 1, 2, 1].tolist() == [*range(6), *range(60, 66)]
    np.testing.assert_array_equal(data.next_observations["top"][:5], data.observations["top"][1:6])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: next(folder.rglob("file-001.mp4")).unlink(), r"file-001.mp4: there is no such video"),
        (lambda folder: next(folder.rglob("file-001.mp4")).write_bytes(b""), r"LeRobot cannot decode .*IndexError"),
        (lambda folder: _resize(folder, [4, 5, 3]), r"frames have shape \(4, 6, 3\); meta/info.json says \(4, 5, 3\)"),
        (lambda folder: _resize(folder, [4, 6, 1]), r"videos of \(height, width, 3\) are read"),
        (lambda folder: _resize(folder, [10**4, 10**4, 3]), r"would unpack 2,000 bytes into 3,600,000,000"),
        (
            lambda folder: next(folder.glob("meta/episodes/*/*")).write_bytes(b"PAR1"),
            r"meta/episodes: the table cannot be read",
        ),
    ],
)
def test_malformed_videos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, said: str) -> None:
    write_cameras(tmp_path / "push", [0.0, 2.0])
    stand_in(monkeypatch)
    damage(tmp_path / "push")
    with pytest.raises(DatasetError, match=said):
        load_dataset(tmp_path / "push", columns={"observations": CAMERA, "terminations": True, "rewards": "timestamp"})


def _resize(folder: Path, shape: list[int]) -> None:
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"]["observation.images.top"]["shape"] = shape
    (folder / "meta/info.json").write_text(json.dumps(info))


def ogbench_arrays() -> dict[str, np.ndarray]:
    """As published: 3 trajectories of 4 states, the last of each with an action that was never taken."""
    states = np.arange(24, dtype=np.float32).reshape(12, 2)
    terminals = (np.arange(1, 13) % 4 == 0).astype(np.float32)
    return {"observations": states, "actions": np.sin(states), "terminals": terminals, "qpos": states * 2}


def ogbench_compact(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ogbench.load_dataset(compact_dataset=True) makes of it, after its documentation."""
    terminals = arrays["terminals"]
    marked = np.minimum(terminals + np.append(terminals[1:], 1.0), 1.0)
    return {**arrays, "valids": 1 - terminals, "terminals": marked.astype(np.float32)}


def ogbench_full(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ogbench.load_dataset(compact_dataset=False) makes of it, after its documentation."""
    kept = arrays["terminals"] == 0
    following = np.append(False, kept[:-1])
    return {
        "observations": arrays["observations"][kept],
        "next_observations": arrays["observations"][following],
        "actions": arrays["actions"][kept],
        "terminals": np.append(arrays["terminals"][1:], 1.0)[kept],
    }


def test_ogbench_in_all_its_forms(tmp_path: Path) -> None:
    arrays = ogbench_arrays()
    columns = {"rewards": lambda rows: rows["next_observations"][:, 0]}
    prints = set()
    for name, form in {"raw": arrays, "compact": ogbench_compact(arrays), "full": ogbench_full(arrays)}.items():
        np.savez(tmp_path / f"{name}.npz", **form)
        with pytest.raises(DatasetError, match="OGBench's files hold no rewards"):
            load_dataset(tmp_path / f"{name}.npz")
        data = load_dataset(tmp_path / f"{name}.npz", columns=columns)
        assert data.rewards.tolist() == [2, 4, 6, 10, 12, 14, 18, 20, 22]
        assert not data.terminations.any()
        assert np.flatnonzero(data.truncations).tolist() == [2, 5, 8]
        prints.add(data.fingerprint())
    assert len(prints) == 1
    full = ogbench_full(arrays)
    masks = np.ones(9, np.float32)
    masks[4] = 0
    np.savez(tmp_path / "single.npz", **full, rewards=masks - 1, masks=masks)
    single = load_dataset(tmp_path / "single.npz")
    assert np.flatnonzero(single.terminations).tolist() == [4]
    np.savez(tmp_path / "short.npz", **{**arrays, "actions": arrays["actions"][:5]})
    with pytest.raises(DatasetError, match="the arrays differ in length"):
        load_dataset(tmp_path / "short.npz", columns=columns)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """imitation's class, field by field."""

    obs: Any
    acts: np.ndarray
    infos: Any
    terminal: bool


@dataclasses.dataclass(frozen=True)
class TrajectoryWithRew(Trajectory):
    rews: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))


Trajectory.__module__ = "imitation.data.types"


def trajectories() -> list[TrajectoryWithRew]:
    rng = np.random.default_rng(0)
    return [
        TrajectoryWithRew(rng.normal(size=(n + 1, 3)).astype(np.float32), rng.uniform(-1, 1, (n, 1)), None, n == 5, np.ones(n))
        for n in (5, 8)
    ]


def test_trajectories_of_imitation() -> None:
    own = trajectories()
    for source in (own, own[0]):
        data = load_dataset(source, env_id="Pendulum-v1")
        np.testing.assert_array_equal(data.observations[:5], own[0].obs[:-1])
        np.testing.assert_array_equal(data.next_observations[:5], own[0].obs[1:])
        assert np.flatnonzero(data.terminations).tolist() == [4]
    assert np.flatnonzero(load_dataset(own).truncations).tolist() == [12]
    with pytest.raises(DatasetError, match="number 0 is a Trajectory without rewards"):
        load_dataset([Trajectory(own[0].obs, own[0].acts, None, True)])
    with pytest.raises(DatasetError, match="episode 0 has 5 actions, 5 rewards and \\[7\\] observations"):
        load_dataset(dataclasses.replace(own[0], obs=np.zeros((7, 3))))


def test_a_folder_that_imitation_saved(tmp_path: Path) -> None:
    """Written by imitation 1.0.1's own serialize.save; beside it the arrays that went in."""
    folder = FIXTURES / "imitation"
    data = load_dataset(folder)
    with np.load(FIXTURES / "imitation_rows.npz") as own:
        np.testing.assert_array_equal(data.observations, own["obs"])
        np.testing.assert_array_equal(data.next_observations, own["next_obs"])
        np.testing.assert_array_equal(data.actions, own["acts"])
        np.testing.assert_array_equal(data.rewards, own["rews"])
        np.testing.assert_array_equal(data.terminations, own["terminations"])
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (arrow,) = tmp_path.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:200])
    with pytest.raises(DatasetError, match="may be damaged"):
        load_dataset(tmp_path)
    arrow.unlink()
    with pytest.raises(DatasetError, match="there is no such file in the folder"):
        load_dataset(tmp_path)


def test_a_pickled_buffer_only_if_it_is_trusted(tmp_path: Path) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=500, learning_starts=1000).learn(300)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    with pytest.raises(DatasetError, match="trust=True, or --trust"):
        load_dataset(tmp_path / "buffer.pkl")
    data = load_dataset(tmp_path / "buffer.pkl", trust=True)
    assert data.fingerprint() == load_dataset(model.replay_buffer).fingerprint()
    (tmp_path / "torn.pkl").write_bytes((tmp_path / "buffer.pkl").read_bytes()[:100])
    with pytest.raises(DatasetError, match="no pickle, or damaged"):
        load_dataset(tmp_path / "torn.pkl", trust=True)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused_or_right(tmp_path: Path) -> None:
    (tmp_path / "log.h5").write_bytes((FIXTURES / "d3rlpy_continuous.h5").read_bytes())
    assert assert_refused_or_well_formed(tmp_path / "log.h5") >= 20
    write_robomimic(tmp_path / "lift.hdf5")
    columns = {"observations": ["eef"]}
    assert assert_refused_or_well_formed(tmp_path / "lift.hdf5", lambda file: load_dataset(file, columns=columns)) >= 20
    np.savez(tmp_path / "og.npz", **ogbench_arrays())
    rewards = {"rewards": lambda rows: rows["next_observations"][:, 0]}
    assert assert_refused_or_well_formed(tmp_path / "og.npz", lambda file: load_dataset(file, columns=rewards)) >= 100


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("file", "times"), [("meta/info.json", 100), ("data/chunk-000/file-001.parquet", 100)])
def test_damaged_lerobot_folders_are_refused_or_right(tmp_path: Path, file: str, times: int) -> None:
    features = {"next.reward": "float32", "next.done": "bool"}
    done, reward = [i % 6 == 5 for i in range(12)], [float(i) for i in range(12)]
    write_lerobot(tmp_path / "push", features, **{"next.reward": reward, "next.done": done})

    def load(_: Path) -> Any:
        return load_dataset(tmp_path / "push", columns={"terminations": "next.done"})

    assert assert_refused_or_well_formed(tmp_path / "push" / file, load, times, name="push") >= 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "times"), [("arrow", 140), ("json", 60)])
def test_damaged_folders_of_imitation_are_refused_or_right(tmp_path: Path, kind: str, times: int) -> None:
    folder = tmp_path / "trajectories"
    folder.mkdir()
    for file in (FIXTURES / "imitation").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (damaged,) = folder.glob("*.arrow") if kind == "arrow" else folder.glob("state.json")
    assert assert_refused_or_well_formed(damaged, lambda _: load_dataset(folder), times, name="trajectories") >= 20
