"""``convert`` through all formats that can be written: every kind of data comes back to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.cli import main
from sb3_offline.datasets import DatasetError, load_dataset
from sb3_offline.shell.writing import write_dataset

pytest.importorskip("minari")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore")

N = 24
BOX = spaces.Box(-5, 5, (3,), np.float32)
ACTIONS = spaces.Box(-1, 1, (2,), np.float32)
MASKED = spaces.MultiDiscrete([3, 2])
PARTS = {
    "counted": spaces.Discrete(4),
    "switches": spaces.MultiBinary(3),
    "bytes": spaces.Box(0, 255, (5,), np.uint8),
    "matrix": spaces.Box(-9, 9, (2, 2), np.float32),
    "camera": spaces.Box(0, 255, (36, 36, 3), np.uint8),
}
OBSERVATIONS = {
    "vector": BOX,
    "bytes": spaces.Box(0, 255, (12,), np.uint8),
    "image": spaces.Box(0, 255, (40, 40, 1), np.uint8),  # of a size that Minari would pack as JPEG
    "channels_first": spaces.Box(0, 255, (3, 40, 40), np.uint8),
    "grey": spaces.Box(0, 255, (40, 40), np.uint8),
    "counted": spaces.Discrete(7),
    "counted_parts": spaces.MultiDiscrete([3, 4]),
    "switches": spaces.MultiBinary(4),
    "dict": spaces.Dict(PARTS),
}


def observe(space: spaces.Space, n: int) -> Any:
    space.seed(n)
    if isinstance(space, spaces.Dict):
        return {key: observe(part, n) for key, part in space.items()}
    return np.stack([space.sample() for _ in range(n)])


def log(observation_space: spaces.Space, action_space: spaces.Space) -> dict[str, Any]:
    """Four episodes of six rows, of which the first and the third end in a termination."""
    ends = np.arange(N) % 6 == 5
    rows = np.flatnonzero(np.arange(28) % 7 != 6)  # of 28 observations, the last of each episode left out
    seen = observe(observation_space, 28)
    following = {key: part[rows + 1] for key, part in seen.items()} if isinstance(seen, dict) else seen[rows + 1]
    action_space.seed(0)
    return {
        "observations": {key: part[rows] for key, part in seen.items()} if isinstance(seen, dict) else seen[rows],
        "next_observations": following,
        "actions": np.stack([action_space.sample() for _ in range(N)]),
        "rewards": np.random.default_rng(0).normal(size=N),
        "terminations": ends & (np.arange(N) % 12 < 6),
        "truncations": ends & (np.arange(N) % 12 >= 6),
    }


def kinds() -> dict[str, tuple[dict[str, Any], spaces.Space, spaces.Space]]:
    found: dict[str, Any] = {name: (log(space, ACTIONS), space, ACTIONS) for name, space in OBSERVATIONS.items()}
    for name, space in (
        ("choices", spaces.Discrete(4, start=2)),
        ("parts", spaces.MultiDiscrete([3, 4], start=[1, 2])),
        ("binary", spaces.MultiBinary(3)),
    ):
        found[name] = log(BOX, space), BOX, space
    masked = log(BOX, MASKED)
    masks = np.random.default_rng(1).random((28, 5)) < 0.5
    rows = np.flatnonzero(np.arange(28) % 7 != 6)
    masks[:, [0, 3]] = True
    masks[rows, masked["actions"][:, 0]] = masks[rows, 3 + masked["actions"][:, 1]] = True
    found["masks"] = masked | {"action_masks": masks[rows], "next_action_masks": masks[rows + 1]}, BOX, MASKED
    unlogged = log(BOX, ACTIONS)
    found["unlogged"] = unlogged | {"valid_next": ~unlogged["terminations"]}, BOX, ACTIONS
    return found


@pytest.mark.parametrize("kind", [*OBSERVATIONS, "choices", "parts", "binary", "masks", "unlogged"])
def test_every_kind_goes_through_every_format(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    arrays, observation_space, action_space = kinds()[kind]
    data = load_dataset(arrays, observation_space=observation_space, action_space=action_space)
    source = str(tmp_path / "first.npz")
    write_dataset(data, source)
    for target in ("log.parquet", "space/log-v0", "log.mmap", "log.hdf5", "space/again-v0", "log.npz"):
        target = target if target.endswith("v0") else str(tmp_path / target)
        assert main(["convert", source, target]) == 0
        read = load_dataset(target)
        assert (read.observation_space, read.action_space) == (observation_space, action_space)
        assert read.array_names == data.array_names
        for name in data.array_names:
            np.testing.assert_array_equal(getattr(read, name)[:], getattr(data, name)[:], err_msg=f"{name} in {target}")
            assert getattr(read, name).dtype == getattr(data, name).dtype
        source = target


def test_masks_of_environments_that_collected_for_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: three rows, of which the second may not choose action 0; infos begin with those of reset."""
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    masks = np.array([[1, 1], [0, 1], [1, 1], [1, 0]], bool)

    def create(name: str, *infos: dict[str, Any]) -> None:
        episodes = [
            minari.data_collector.EpisodeBuffer(
                id=number,
                observations=np.arange(12, dtype=np.float32).reshape(4, 3),
                actions=np.array([0, 1, 0]),
                rewards=[0.0] * 3,
                terminations=[False] * 3,
                truncations=[False, False, True],
                infos=info,
            )
            for number, info in enumerate(infos)
        ]
        unbounded = spaces.Box(-99, 99, (3,), np.float32)
        minari.create_dataset_from_buffers(name, episodes, observation_space=unbounded, action_space=spaces.Discrete(2))

    create("space/masks-v0", {"action_masks": masks, "speed": np.zeros(4)})
    data = load_dataset("space/masks-v0")
    np.testing.assert_array_equal(data.action_masks, masks[:3])
    np.testing.assert_array_equal(data.next_action_masks, masks[1:])
    create("space/short-v0", {"action_masks": masks[:3]})
    with pytest.raises(DatasetError, match=r"episode 0 holds 3 action_masks among its infos of 3 steps.*reset"):
        load_dataset("space/short-v0")
    create("space/some-v0", {"action_masks": masks}, {"speed": np.zeros(4)})
    with pytest.raises(DatasetError, match="only some episodes have action_masks, next_action_masks as infos"):
        load_dataset("space/some-v0")


def test_keys_that_minari_takes_for_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = spaces.Dict({"arm/left": BOX})
    data = load_dataset(log(space, ACTIONS), observation_space=space, action_space=ACTIONS)
    with pytest.raises(ValueError, match=r"space/log-v0: Minari takes the key 'arm/left' for a path\. Rename it"):
        write_dataset(data, "space/log-v0")
