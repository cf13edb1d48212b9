"""Data files that mean harm: bombs, headers that lie, plugins. Pickles and links are in test_dataset_files.py."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sb3_offline.datasets import DatasetError, load_dataset
from sb3_offline.datasets.sources import hdf5_safety
from sb3_offline.files import archives
from tests.conftest import Arrays

Spaces = dict[str, Any]


def arrays(n: int = 8) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(n, 2)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 1)).astype(np.float32),
        "rewards": np.arange(n, dtype=np.float32),
        "terminations": np.arange(n) % 4 == 3,
        "truncations": np.zeros(n, dtype=bool),
    }


def npy(shape: Any, descr: Any = "<f4", body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy member whose header says what it likes."""
    stream = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": descr}
    write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    write(stream, header)
    return stream.getvalue() + body


def with_rewards(path: Path, content: bytes) -> Path:
    np.savez(path, **{name: array for name, array in arrays().items() if name != "rewards"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", content)
    return path


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6, 10**6), (9,), (7,), ()])
def test_a_header_that_lies_about_its_bytes(
    tmp_path: Path, task_spaces: Spaces, shape: tuple[int, ...], version: tuple[int, int]
) -> None:
    path = with_rewards(tmp_path / "log.npz", npy(shape, body=bytes(32), version=version))
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=r"rewards cannot be read: its header says float32 of shape"):
            load_dataset(path, **task_spaces)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # nothing was allocated for it
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        npy((8,), descr=[("a", "<f4")], body=bytes(32)),
        npy((-8,), body=bytes(32)),
        npy((8,), descr="|O", body=bytes(64)),
        b"\x93NUMPY\x03\x00" + npy((8,), body=bytes(32))[8:],
        b"\x93NUMPY\x01\x00\xff\xff" + bytes(100),
        b"\x93NUMPY\x01\x00v\x00" + b"__import__('os').system('id')".ljust(117) + b"\n",
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', (".ljust(117) + b"\n",
        b"not an array",
        b"",
    ],
)
def test_members_that_are_no_array_of_numbers(tmp_path: Path, task_spaces: Spaces, content: bytes) -> None:
    with pytest.raises(DatasetError, match="rewards"):
        load_dataset(with_rewards(tmp_path / "log.npz", content), **task_spaces)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, task_spaces: Spaces, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "log.npz", **(arrays() | {"rewards": np.zeros(2_000_000)}))
    with pytest.raises(DatasetError, match="rewards"):  # within bounds: it is read, and has the wrong length
        load_dataset(tmp_path / "log.npz", **task_spaces)
    monkeypatch.setattr(archives.open_archive, "__defaults__", ((1_000_000, 200),))
    with pytest.raises(DatasetError, match=r"log\.npz would unpack .* as a zip bomb does"):
        load_dataset(tmp_path / "log.npz", **task_spaces)


def test_a_member_that_would_lie_elsewhere(tmp_path: Path, task_spaces: Spaces) -> None:
    np.savez(tmp_path / "log.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "log.npz", "a") as archive:
        archive.writestr("../evil.npy", b"")
    with pytest.raises(DatasetError, match="outside of the archive"):
        load_dataset(tmp_path / "log.npz", **task_spaces)


# --- HDF5 ---


def write_hdf5(path: Path, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays().items():
            file.create_dataset(name, data=array, **(options if name == "observations" else {}))
    return path


@pytest.mark.parametrize(
    "options",
    [{"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}, {"scaleoffset": 3}],
    ids=str,
)
def test_hdf5s_own_filters_are_read(tmp_path: Path, task_spaces: Spaces, options: dict[str, Any]) -> None:
    data = load_dataset(write_hdf5(tmp_path / "log.h5", **options), **task_spaces)
    np.testing.assert_allclose(data.observations, arrays()["observations"], atol=1e-3)


def test_a_filter_that_is_a_plugin_is_refused(tmp_path: Path, task_spaces: Spaces) -> None:
    path = tmp_path / "log.h5"
    write_hdf5(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((8,))
        plist.set_filter(32004, h5py.h5z.FLAG_OPTIONAL)  # LZ4, which HDF5 looks for among its plugins
        space = h5py.h5s.create_simple((8,))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, space, dcpl=plist)
    with pytest.raises(DatasetError, match=r"rewards is packed by .*\(filter 32004\), which HDF5 would load as a plugin"):
        load_dataset(path, **task_spaces)


def test_an_array_that_the_file_does_not_hold(tmp_path: Path, task_spaces: Spaces) -> None:
    """A shape costs nothing on disk until something is written."""
    path = write_hdf5(tmp_path / "log.h5")
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", shape=(10**13,), dtype="f4", chunks=(1024,))
    with pytest.raises(DatasetError, match=r"would unpack [\d,]+ bytes into 40,000,000,000,\d+"):
        load_dataset(path, **task_spaces)


def test_links_of_unknown_kinds_and_in_circles(tmp_path: Path, task_spaces: Spaces) -> None:
    path = write_hdf5(tmp_path / "log.h5")
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = h5py.SoftLink("/rewards")
    with pytest.raises(DatasetError, match=r"log\.h5"):
        load_dataset(path, **task_spaces)
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = h5py.SoftLink("/../other.h5/rewards")
    with pytest.raises(DatasetError, match=r"log\.h5"):
        load_dataset(path, **task_spaces)


def test_every_filter_that_is_allowed_is_built_in() -> None:
    assert all(h5py.h5z.filter_avail(code) for code in hdf5_safety._FILTERS - {h5py.h5z.FILTER_SZIP})
    assert 32004 not in hdf5_safety._FILTERS
