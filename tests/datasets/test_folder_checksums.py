"""A flipped bit in a memory-mapped folder is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sb3_offline import load_dataset
from sb3_offline.datasets import DatasetError, save_mapped


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminations", "final_observations"])
def test_a_flipped_bit_is_noticed(name: str, tmp_path: Path) -> None:
    data = load_dataset("sb3_offline/Pendulum-medium-v0")
    save_mapped(data, tmp_path / "data.mmap")
    assert load_dataset(tmp_path / "data.mmap").fingerprint() == data.fingerprint()
    path = tmp_path / "data.mmap" / f"{name}.npy"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(128 * 8, len(whole) * 8, size=5):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=rf"{name}\.npy is damaged.*delete .*checksums\.json| {name}"):
            load_dataset(tmp_path / "data.mmap")
    (tmp_path / "data.mmap" / "checksums.json").write_text("[1]")
    with pytest.raises(DatasetError, match=r"checksums\.json is damaged"):
        load_dataset(tmp_path / "data.mmap")
    path.write_bytes(whole)
    (tmp_path / "data.mmap" / "checksums.json").unlink()  # as folders of earlier versions
    assert load_dataset(tmp_path / "data.mmap").fingerprint() == data.fingerprint()
