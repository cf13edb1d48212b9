"""``inspect`` says of every source what was read, taken for what, cut and dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_offline.datasets import load_dataset
from sb3_offline.shell.card import make_card

pytestmark = pytest.mark.filterwarnings("ignore")
SPACES: dict[str, Any] = {
    "observation_space": spaces.Box(-9, 9, (2,), np.float32),
    "action_space": spaces.Box(-1, 1, (1,), np.float32),
}


def log(n: int = 30) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(n, 2)),
        "actions": rng.uniform(-1, 1, (n, 1)),
        "rewards": rng.normal(size=n),
        "terminals": np.arange(n) == 9,
        "timeouts": np.arange(n) % 10 == 9,
    }


def reading(source: Any, **options: Any) -> list[str]:
    return make_card(load_dataset(source, **(SPACES | options))).reading


@pytest.mark.parametrize("suffix", ["dict", "npz", "hdf5"])
def test_arrays_of_other_names(suffix: str, tmp_path: Path) -> None:
    arrays = log() | {"timeouts": log()["timeouts"] & ~log()["terminals"], "battery": np.zeros(30)}
    path = tmp_path / f"log.{suffix}"
    if suffix == "npz":
        np.savez(path, **arrays)
    elif suffix == "hdf5":
        with h5py.File(path, "w") as file:
            file.update(arrays)
    assert reading(arrays if suffix == "dict" else path) == [
        "taken: terminals as terminations, timeouts as truncations",
        "not read: battery",
        "next observations: taken from the following rows",
        "rows dropped: 2: the last of each cut episode",
    ]


def test_several_sources() -> None:
    assert reading([log(), log() | {"battery": np.zeros(30)}]) == [
        "source 1, arrays: taken: terminals as terminations, timeouts as truncations",
        "source 1, arrays: next observations: taken from the following rows",
        "source 1, arrays: rows dropped: 2: the last of each cut episode",
        "source 2, arrays: taken: terminals as terminations, timeouts as truncations",
        "source 2, arrays: not read: battery",
        "source 2, arrays: next observations: taken from the following rows",
        "source 2, arrays: rows dropped: 2: the last of each cut episode",
    ]


def test_episodes_of_d3rlpy(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "log.h5", "w") as file:
        file["columns"], file["num_episodes"], file["version"] = ["observations"], 3, "2.1"
        for number, rows in enumerate(np.split(np.arange(30), 3)):
            for name in ("observations", "actions", "rewards"):
                file[f"{name}_{number}"] = log()[name][rows]
            file[f"terminated_{number}"] = number == 0
    assert reading(tmp_path / "log.h5") == [
        "3 episodes of log.h5, which hold no observation after the last action",
        "next observations: taken from the following rows",
        "rows dropped: 2: the last of each cut episode",
    ]


def test_trajectories_of_ogbench(tmp_path: Path) -> None:
    arrays = {name: values for name, values in log().items() if name in ("observations", "actions")}
    np.savez(tmp_path / "log.npz", terminals=log()["timeouts"], masks=1 - log()["terminals"], **arrays)
    columns = {"rewards": lambda rows: rows["observations"][:, 0]}
    assert reading(tmp_path / "log.npz", columns=columns) == [
        "each trajectory's last row is its final observation",
        "terminals are cuts, masks of 0 terminations",
        "rewards by a function",
    ]


def test_a_replay_buffer() -> None:
    buffer = ReplayBuffer(4, *SPACES.values(), n_envs=2, device="cpu")
    for step in range(6):
        seen = np.full((2, 2), step, np.float32)
        buffer.add(seen, seen + 1, np.zeros((2, 1)), np.zeros(2), np.zeros(2), [{}, {}])
    (said,) = reading(buffer)
    assert said == "2 steps of 2 environments, the oldest ones overwritten; cut where the next row does not follow"


def test_episodes_of_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    from sb3_offline.shell.writing import write_dataset

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    write_dataset(load_dataset(log(), **SPACES), "space/log-v0")
    assert reading("space/log-v0")[0] == "3 episodes, 28 steps, kept as hdf5"
