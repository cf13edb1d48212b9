"""Images into memory-mapped folders: in every format that can hold them, in blocks of few bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.cli import main
from sb3_offline.datasets import DatasetError, load_dataset, mapped, open_dataset
from sb3_offline.datasets.sources import converting, episodes
from sb3_offline.datasets.sources.tables import sizes
from tests.datasets.test_other_libraries import CAMERA, stand_in, write_cameras, write_robomimic

pytestmark = pytest.mark.filterwarnings("ignore")
N, SHAPE = 20, (6, 5, 3)
ROW = int(np.prod(SHAPE))
SPACES: dict[str, Any] = {
    "observation_space": spaces.Dict(
        {"camera": spaces.Box(0, 255, SHAPE, np.uint8), "state": spaces.Box(-np.inf, np.inf, (2,))}
    ),
    "action_space": spaces.Box(-1, 1, (1,)),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three images and a bit; nothing is kept in memory."""
    monkeypatch.setattr(mapped, "BLOCK_BYTES", 3 * 2 * (ROW + 8) + 100)
    monkeypatch.setattr(sizes, "KEPT_BYTES", 0)
    monkeypatch.setattr(episodes, "KEPT_BYTES", 0)


def rows() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    images, states = rng.integers(256, size=(N + 1, *SHAPE), dtype=np.uint8), rng.normal(size=(N + 1, 2)).astype(np.float32)
    ends = np.arange(1, N + 1) % 10 == 0
    return {
        "observations": {"camera": images[:-1], "state": states[:-1]},
        "next_observations": {"camera": images[1:], "state": states[1:]},
        "actions": rng.uniform(-1, 1, (N, 1)).astype(np.float32),
        "rewards": np.arange(N, dtype=np.float32),
        "terminations": ends & (np.arange(N) > 10),
        "truncations": ends & (np.arange(N) < 10),
    }


def as_table(path: Path, order: Any = slice(None)) -> tuple[Path, dict[str, Any]]:
    pd, arrays = pytest.importorskip("pandas"), rows()
    frame = pd.DataFrame({name: arrays[name] for name in ("rewards", "terminations")} | {"valve": arrays["actions"][:, 0]})
    frame["camera"] = arrays["observations"]["camera"].tolist()
    frame["run"], frame["t"] = np.divmod(np.arange(N), 10)
    frame["x"], frame["y"] = arrays["observations"]["state"].T
    pa = pytest.importorskip("pyarrow")
    images = pa.array(frame["camera"].tolist(), pa.list_(pa.list_(pa.list_(pa.uint8()))))
    table = pa.Table.from_pandas(frame.drop(columns="camera")).append_column("camera", images)
    table = table.take(np.arange(N)[order])
    import pyarrow.parquet as pq

    pq.write_table(table, path / "log.parquet", row_group_size=4)
    columns = {"observations": {"camera": "camera", "state": ["x", "y"]}, "actions": "valve", "rewards": "rewards"}
    columns |= {"terminations": "terminations", "episode": "run", "time": "t"}
    return path / "log.parquet", {"columns": columns, **SPACES}


def as_shuffled_table(path: Path) -> tuple[Path, dict[str, Any]]:
    return as_table(path, np.random.default_rng(1).permutation(N))


def flat() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, array in rows().items():
        found |= {f"{name}/{key}": part for key, part in array.items()} if isinstance(array, dict) else {name: array}
    return found


def as_npz(path: Path) -> tuple[Path, dict[str, Any]]:
    np.savez_compressed(path / "log.npz", **flat())
    return path / "log.npz", SPACES


def as_hdf5(path: Path) -> tuple[Path, dict[str, Any]]:
    with h5py.File(path / "log.h5", "w") as file:
        file.update(flat())
    return path / "log.h5", SPACES


def as_own_parquet(path: Path) -> tuple[Path, dict[str, Any]]:
    npz, _ = as_npz(path)
    (path / "log.npz").rename(path / "spaces.npz")
    from sb3_offline.shell.writing import write_dataset

    write_dataset(load_dataset(npz.with_name("spaces.npz"), **SPACES), str(path / "own.parquet"))
    return path / "own.parquet", {}


def as_robomimic(path: Path) -> tuple[Path, dict[str, Any]]:
    write_robomimic(path / "lift.hdf5")
    return path / "lift.hdf5", {}


WRITERS = [as_table, as_shuffled_table, as_npz, as_hdf5, as_own_parquet, as_robomimic]


@pytest.mark.parametrize("write", WRITERS)
def test_images_stream_in_blocks_of_few_bytes(write: Callable[[Path], tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    path, options = write(tmp_path)
    source = open_dataset(path, **options)
    blocks = [len(block) for block in source.blocks(tmp_path)]
    assert max(blocks) <= (10 if write is as_robomimic else 7)  # an episode is never parted
    converting.stream_to_folder(source, tmp_path / "log.mmap", source.info, "log")
    data, whole = load_dataset(tmp_path / "log.mmap"), load_dataset(path, **options)
    assert data.fingerprint() == whole.fingerprint()
    assert data.observation_space == whole.observation_space
    assert data.observations["camera" if "camera" in data.observation_space.spaces else "image"].dtype == np.uint8


def test_videos_stream_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards are a function of the columns, which does not decode the videos."""
    from sb3_offline.datasets.sources.tables import frames

    monkeypatch.setattr(frames, "_IMAGE_ROWS", 3)
    stand_in(monkeypatch)
    write_cameras(tmp_path / "push", [0.0, 2.0])
    columns = {"observations": CAMERA, "terminations": True, "rewards": lambda table: table["frame_index"] * 2.0}
    source = open_dataset(tmp_path / "push", columns=columns)
    assert max(len(block) for block in source.blocks(tmp_path)) <= 3
    converting.stream_to_folder(source, tmp_path / "push.mmap", source.info, "push")
    data = load_dataset(tmp_path / "push.mmap")
    assert data.fingerprint() == load_dataset(tmp_path / "push", columns=columns).fingerprint()
    assert data.observations["top"][:, 1, 2, 1].tolist() == [*range(6), *range(60, 66)]
    assert data.rewards.tolist() == [0, 2, 4, 6, 8, 10] * 2


def test_the_shell_converts_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    write_cameras(tmp_path / "push", [0.0, 2.0])
    (tmp_path / "columns.yaml").write_text(
        "{observations: {state: observation.state, top: observation.images.top}, terminations: true, rewards: frame_index}"
    )
    target = tmp_path / "push.mmap"
    command = ["convert", str(tmp_path / "push"), str(target), "--columns", str(tmp_path / "columns.yaml")]
    assert main(command) == 0
    assert load_dataset(target).observations["top"].shape == (12, 4, 6, 3)
    next(tmp_path.glob("push/videos/*/*/*.mp4")).unlink()
    with pytest.raises(DatasetError, match="there is no such video in the folder"):
        open_dataset(tmp_path / "push", columns=tmp_path / "columns.yaml")
