"""Layouts whose rows are not yet transitions stream as well: RLDS's steps, OGBench's trajectories, SB3's replay buffers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

from sb3_offline.cli import main
from sb3_offline.datasets import DatasetError, OfflineDataset, load_dataset, mapped, open_dataset
from sb3_offline.datasets.sources import converting, npz, ogbench
from sb3_offline.datasets.sources.streaming import checked_blocks
from sb3_offline.datasets.sources.tables import sizes
from tests.datasets.test_other_libraries import ogbench_arrays, ogbench_compact, ogbench_full
from tests.datasets.test_streaming import SPACES, assert_equal

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 7 rows in place of 65,536, and nothing kept in memory."""
    monkeypatch.setattr(mapped, "BLOCK_ROWS", 7)
    monkeypatch.setattr(sizes, "KEPT_BYTES", 0)


def streamed(path: Any, target: Path, **options: Any) -> tuple[OfflineDataset, OfflineDataset]:
    """What streaming into a folder gives, and what reading the whole gives."""
    source = open_dataset(path, **options)
    assert source.read_blocks is not None
    converting.stream_to_folder(source, target, source.info, "log")
    return load_dataset(target), source.load()


def rlds(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Episodes of so many steps; the last one holds only an observation, and every third episode terminates there."""
    rng, n = np.random.default_rng(seed), sum(lengths)
    last = np.zeros(n, bool)
    last[np.cumsum(lengths) - 1] = True
    terminal = last & (np.cumsum(last) % 3 == 0)
    return {
        "observation": rng.normal(size=(n, 2)).astype(np.float32),
        "action": np.where(last[:, None], 0, rng.uniform(0.1, 1, (n, 1))).astype(np.float32),
        "reward": np.where(last, 0, rng.normal(size=n)).astype(np.float32),
        "is_first": np.append(True, last[:-1]),
        "is_last": last,
        "is_terminal": terminal,
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    else:
        with h5py.File(path, "w") as file:
            file.update(arrays)
    return path


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_steps_of_rlds(suffix: str, tmp_path: Path) -> None:
    """Of 6 episodes of 50 steps in all 44 are transitions; 2 episodes terminate."""
    steps = rlds([2, 7, 14, 8, 3, 16])
    data, whole = streamed(write(tmp_path / f"log.{suffix}", steps), tmp_path / "log.mmap", **SPACES)
    assert_equal(data, whole)
    assert (len(data), data.n_episodes, int(data.terminations.sum())) == (44, 6, 2)
    inner = ~steps["is_last"]
    np.testing.assert_array_equal(data.observations, steps["observation"][inner])
    np.testing.assert_array_equal(data.next_observations[:], steps["observation"][1:][inner[:-1]])
    assert data.info.card["reading"] == whole.info.card["reading"]


@pytest.mark.parametrize("seed", range(20))
def test_steps_of_rlds_in_blocks_of_any_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = rlds([*rng.integers(1, 6, size=12)], seed)
    cuts = np.unique(np.r_[0, rng.integers(1, len(steps["reward"]), size=15), len(steps["reward"])])

    def blocks() -> Any:
        return ({name: part[i:j] for name, part in steps.items()} for i, j in pairwise(cuts))

    whole = load_dataset(steps, **SPACES)
    found = list(checked_blocks(blocks(), open_dataset(steps, **SPACES).info, blocks))
    for name in whole.array_names:
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in found]), getattr(whole, name))


def test_flags_named_as_those_of_rlds_are_told_by_all_rows(tmp_path: Path) -> None:
    """An action in a last row shows that these are no steps, however late it comes."""
    steps = rlds([10, 10, 10, 10])
    steps["action"][-1] = 0.5
    data, whole = streamed(write(tmp_path / "log.npz", steps), tmp_path / "log.mmap", **SPACES)
    assert_equal(data, whole)
    assert len(data) == 37  # 40 rows, of which three were cut and have no next observation


@pytest.mark.parametrize("form", ["published", "compact", "full", "masks"])
@pytest.mark.parametrize("stored", [np.savez, np.savez_compressed])
def test_ogbench(form: str, stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions see all transitions, in whatever blocks they are written; of arrays only flags are read whole."""
    forms = {"published": lambda arrays: arrays, "compact": ogbench_compact, "full": ogbench_full, "masks": ogbench_full}
    arrays = forms[form](ogbench_arrays())
    columns: Any = {"rewards": lambda rows: rows["next_observations"][:, 0] - rows["observations"].mean()}
    if form == "masks":
        arrays |= {"masks": np.array([1, 1, 1, 1, 0, 1, 1, 1, 1], np.float32), "rewards": np.arange(9.0)}
        columns = None
    stored(tmp_path / "log.npz", **arrays)
    data, whole = streamed(tmp_path / "log.npz", tmp_path / "log.mmap", columns=columns)
    assert_equal(data, whole)
    assert (len(data), np.flatnonzero(data.truncations).tolist()) == (9, [2, 5, 8])
    if form == "masks":
        assert np.flatnonzero(data.terminations).tolist() == [4]
        assert data.rewards.tolist() == [*range(9)]
        read: list[str] = []
        whole_array = npz._npz_member
        monkeypatch.setattr(npz, "_npz_member", lambda *of: read.append(of[2]) or whole_array(*of))
        list(open_dataset(tmp_path / "log.npz").blocks(tmp_path))
        assert {*read} == {"terminals"}
    else:
        assert data.rewards[:2].tolist() == [2 - 10.5, 4 - 10.5]  # states 0, 1, ... 5, 8, ... 21: mean 10.5


def test_a_function_of_ogbenchs_rows_that_fails_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", **ogbench_arrays())  # type: ignore[arg-type]
    for function, says in (
        (lambda rows: rows["qvel"], r"KeyError: .*'qvel' is no array; there are .*next_observations"),
        (lambda rows: rows["qpos"], r"gave an array of shape \(9, 2\); one value a row is needed, \(9,\)"),
    ):
        with pytest.raises(DatasetError, match=rf"the function for rewards .*{says}"):
            load_dataset(tmp_path / "log.npz", columns={"rewards": function})
    assert ogbench.is_ogbench(tmp_path / "log.npz")


def filled(n_envs: int, steps: int, size: int, dicts: bool = False) -> ReplayBuffer:
    """Episodes of 11 steps, every second one a time limit; the third environment is reset once without a trace."""
    rng = np.random.default_rng(0)
    space: Any = spaces.Box(-9, 9, (2,))
    kind: Any = DictReplayBuffer if dicts else ReplayBuffer
    space = spaces.Dict({"a": space, "b": space}) if dicts else space
    buffer = kind(size * n_envs, space, spaces.Box(-2, 2, (1,)), n_envs=n_envs, device="cpu")

    def observe() -> Any:
        draw = [rng.normal(size=(n_envs, 2)).astype(np.float32) for _ in range(2)]
        return dict(zip("ab", draw, strict=True)) if dicts else draw[0]

    now = observe()
    for step in range(steps):
        after, done = observe(), np.full(n_envs, step % 11 == 10)
        infos = [{"TimeLimit.truncated": step % 22 == 10}] * n_envs
        buffer.add(now, after, rng.uniform(-1, 1, (n_envs, 1)), rng.normal(size=n_envs), done, infos)
        now = observe() if done[0] or step == 4 else after
    return buffer


@pytest.mark.parametrize(("n_envs", "steps", "size"), [(1, 30, 40), (3, 33, 40), (3, 50, 40), (2, 40, 40), (1, 1, 5)])
@pytest.mark.parametrize("dicts", [False, True])
def test_replay_buffers_in_blocks(n_envs: int, steps: int, size: int, dicts: bool, tmp_path: Path) -> None:
    """Also a ring that wrapped. Each block is a few rows of the buffer, which is the only copy of all of them."""
    buffer = filled(n_envs, steps, size, dicts)
    source = open_dataset(buffer)
    blocks, whole = list(source.blocks(tmp_path)), source.load()
    assert len(blocks) == 1 or max(map(len, blocks)) <= 9
    assert len(whole) == n_envs * min(steps, size)
    for name in whole.array_names:
        parts = [getattr(block, name) for block in blocks]
        for key in "ab" if isinstance(parts[0], dict) else [None]:
            joined = np.concatenate([part if key is None else part[key] for part in parts])
            expected = getattr(whole, name)
            np.testing.assert_array_equal(joined, expected if key is None else expected[key], err_msg=name)
    if (n_envs, steps) == (3, 33):
        assert np.flatnonzero(whole.truncations).tolist() == [4, 10, 32, 37, 43, 65, 70, 76, 98]
        assert np.flatnonzero(whole.terminations).tolist() == [21, 54, 87]


def test_a_pickled_buffer_streams_into_a_folder(tmp_path: Path) -> None:
    save_to_pkl(tmp_path / "buffer.pkl", filled(3, 33, 40))
    command = ["convert", str(tmp_path / "buffer.pkl"), str(tmp_path / "log.mmap")]
    assert main(command) == 2
    assert main([*command, "--trust"]) == 0
    assert_equal(load_dataset(tmp_path / "log.mmap"), load_dataset(tmp_path / "buffer.pkl", trust=True))


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
@pytest.mark.parametrize("dicts", [False, True])
def test_files_of_torchrl(suffix: str, dicts: bool, tmp_path: Path) -> None:
    """What a step led to lies under ``next``; the outer flags tell of the time before it."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(31, 2)).astype(np.float32)
    ends = np.arange(30) % 10 == 9
    step = {"reward": rng.normal(size=30), "terminated": ends & (np.arange(30) < 20), "truncated": ends, "done": ends}
    outer = {name: np.zeros(30, bool) for name in ("terminated", "truncated", "done")}
    now, then = ({"a": states[rows], "b": states[rows] * 2} for rows in (slice(0, 30), slice(1, 31)))
    steps = {f"next/{name}": values for name, values in step.items()} | outer
    steps["action"] = rng.uniform(-1, 1, (30, 1))
    if dicts and suffix == "hdf5":
        steps |= {f"observation/{key}": part for key, part in now.items()}
        steps |= {f"next/observation/{key}": part for key, part in then.items()}
    else:
        steps |= {"observation": now["a"], "next/observation": then["a"]}
    options = dict(SPACES)
    if dicts and suffix == "hdf5":
        options["observation_space"] = spaces.Dict(dict.fromkeys("ab", SPACES["observation_space"]))
    data, whole = streamed(write(tmp_path / f"log.{suffix}", steps), tmp_path / "log.mmap", **options)
    assert_equal(data, whole)
    assert (len(data), data.n_episodes, int(data.terminations.sum())) == (30, 3, 2)
    reached = whole.next_observations
    assert np.array_equal(
        reached["b"] if dicts and suffix == "hdf5" else reached, then["b" if dicts and suffix == "hdf5" else "a"]
    )
