"""Where the data lie makes no difference to what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_offline import CQL, DROMO, load_dataset
from sb3_offline.buffers import rows as rows_module
from sb3_offline.buffers import storage as storage_module
from sb3_offline.buffers.buffers import OfflineDatasetBuffer
from sb3_offline.buffers.rows import HostRows, first_row, row_blocks
from sb3_offline.buffers.storage import HostDatasetBuffer, make_dataset_buffer
from sb3_offline.datasets import OfflineDataset, save_mapped
from tests.conftest import FAST, FAST_DROMO

CPU = th.device("cpu")


@pytest.fixture
def dataset(pendulum_arrays: dict[str, np.ndarray]) -> OfflineDataset:
    return load_dataset(pendulum_arrays, env_id="Pendulum-v1")


@pytest.fixture
def folder(dataset: OfflineDataset, tmp_path: Path) -> Path:
    save_mapped(dataset, tmp_path / "log.mmap")
    return tmp_path / "log.mmap"


def make_buffer(storage: Any, dataset: OfflineDataset) -> OfflineDatasetBuffer:
    buffer = make_dataset_buffer(storage, dataset, dataset.observation_space, dataset.action_space, CPU)
    buffer.generator = th.Generator().manual_seed(3)
    return buffer


def test_batches_are_the_same_to_the_bit(dataset: OfflineDataset, folder: Path) -> None:
    memory, mapped = make_buffer("memory", dataset), make_buffer("mmap", load_dataset(folder))
    assert isinstance(mapped, HostDatasetBuffer)
    assert mapped.size() == 1000
    for _ in range(3):
        for one, other in zip(memory.sample(64), mapped.sample(64), strict=True):
            if one is not None:
                assert th.equal(one, other)
                assert one.dtype == other.dtype == th.float32
    # actions reach +-2 in the data
    assert mapped.actions[:].abs().max() <= 1
    assert mapped.actions[:].numpy() == pytest.approx(dataset.actions / 2, abs=1e-6)
    with pytest.raises(RuntimeError, match="fixed"):
        mapped.add()


def test_draws_from_files_are_uniform(folder: Path) -> None:
    """Chi-square of 10 equal parts of the rows, 9 degrees of freedom: 27.9 is passed once in 1000."""
    buffer = make_buffer("mmap", load_dataset(folder))
    buffer.rewards = HostRows(np.arange(1000, dtype=np.float32), CPU)
    drawn = th.cat([buffer.sample(500).rewards.flatten() for _ in range(20)])
    counts = th.bincount((drawn / 100).long(), minlength=10)
    assert float((counts - 1000).square().sum() / 1000) < 27.9
    assert len(drawn.unique()) > 990  # each row is missed with probability e^-10
    assert (drawn[1:] < drawn[:-1]).float().mean() == pytest.approx(0.5, abs=0.02)  # in the order of the draw


def learn(source: Any, storage: Any, algorithm: type = DROMO, **options: Any) -> Any:
    fast = FAST_DROMO if algorithm is DROMO else FAST
    return algorithm("MlpPolicy", dataset=source, storage=storage, **fast, **options).learn(4, log_interval=None)


def assert_same(one: Any, other: Any) -> None:
    for name, parameters in one.get_parameters().items():
        for key, value in parameters.items():
            if isinstance(value, th.Tensor):
                assert th.equal(value, other.get_parameters()[name][key]), (name, key)


@pytest.mark.parametrize("block", [1 << 18, 300])
def test_every_stage_gives_the_same_weights(
    dataset: OfflineDataset, folder: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Dynamics, behaviour policy, visits, rollouts and updates, in one piece and in blocks."""
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", block)
    mapped = learn(folder, "mmap")
    assert isinstance(mapped.replay_buffer, HostDatasetBuffer)
    assert_same(learn(dataset, "memory"), mapped)
    start = mapped.replay_buffer.observations[th.tensor([7])]
    assert start.numpy() == pytest.approx(dataset.observations[7:8])


def test_it_is_saved_and_continues(folder: Path, tmp_path: Path) -> None:
    model = learn(folder, "mmap", CQL, n_action_samples=4)
    model.save(tmp_path / "model")
    loaded = CQL.load(tmp_path / "model")
    assert loaded.storage == "mmap"
    observation = np.zeros((1, 3), dtype=np.float32)
    assert model.predict(observation, deterministic=True)[0] == loaded.predict(observation, deterministic=True)[0]
    loaded.learn(2, reset_num_timesteps=False, log_interval=None)
    assert loaded.num_timesteps == 6
    assert isinstance(loaded.replay_buffer, HostDatasetBuffer)


def test_contradictions_are_refused(dataset: OfflineDataset) -> None:
    with pytest.raises(ValueError, match="storage must be one of 'memory', 'mmap', 'device', 'auto', got 'disk'"):
        CQL("MlpPolicy", dataset=dataset, storage="disk")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"storage='mmap' needs data that lie in a folder .*save_mapped"):
        learn(dataset, "mmap", CQL)


def test_auto_keeps_on_the_device_what_fits(dataset: OfflineDataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = load_dataset(folder)
    needed = 1000 * (2 * 3 * 4 + 4 + 4 + 3)
    monkeypatch.setattr(storage_module, "free_bytes", lambda _: 2 * needed)
    assert type(make_buffer("auto", mapped)) is OfflineDatasetBuffer
    monkeypatch.setattr(storage_module, "free_bytes", lambda _: 2 * needed - 2)
    assert type(make_buffer("auto", mapped)) is HostDatasetBuffer
    assert type(make_buffer("auto", dataset)) is OfflineDatasetBuffer  # on a CPU, host memory is the device's
    assert storage_module.free_bytes(CPU) > 0


def test_statistics_of_vec_normalize_come_from_the_files(dataset: OfflineDataset, folder: Path, monkeypatch: Any) -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    monkeypatch.setattr("sb3_offline.datasets.mapped.BLOCK_ROWS", 300)
    CQL("MlpPolicy", env, dataset=folder, storage="mmap", **FAST).learn(1)
    assert env.obs_rms.mean == pytest.approx(dataset.observations.mean(axis=0, dtype=np.float64), rel=1e-6)
    assert env.obs_rms.var == pytest.approx(dataset.observations.var(axis=0, dtype=np.float64), rel=1e-6)


def test_rows_are_read_where_they_lie() -> None:
    rows = HostRows(np.arange(10.0).reshape(5, 2), "cpu", rows=np.array([4, 1, 2]), read=lambda values: -values)
    assert (len(rows), rows.shape, rows.ndim) == (3, (3, 2), 2)
    assert rows[th.tensor([2, 0, 2])].tolist() == [[-4, -5], [-8, -9], [-4, -5]]
    assert rows[1:].tolist() == [[-2, -3], [-4, -5]]


def test_blocks_cover_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", 3)
    column = th.arange(8.0)
    assert [block.tolist() for (block,) in row_blocks(column)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    few, many = th.tensor([6, 1]), th.tensor([6, 1, 7, 0])
    assert [block.tolist() for (block,) in row_blocks(column, order=few)] == [[6, 1]]
    assert [block.tolist() for (block,) in row_blocks(column, order=many)] == [[0, 1, 6], [7]]
    assert first_row(column, lambda block: block > 4) == 5
    assert first_row(column, lambda block: block > 7) is None
