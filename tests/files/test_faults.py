"""Full disks and killed processes: what was there before is there afterwards, and nothing is left lying about."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sb3_offline import CQL, load_dataset
from sb3_offline.datasets import save_mapped
from sb3_offline.files import atomic
from sb3_offline.files.abandoned import remove_abandoned
from sb3_offline.files.atomic import draft_of, write_atomically

N = 20_000
PROGRAM = "import sys; from sb3_offline.cli import main; sys.exit(main(sys.argv[1:]))"


def arrays(n: int = N, shift: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(n + 1, 3)).astype(np.float32) + np.float32(shift)
    return {
        "observations": states[:-1],
        "actions": rng.uniform(-2, 2, (n, 1)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "next_observations": states[1:],
        "terminations": np.arange(n) % 200 == 199,
        "truncations": np.zeros(n, dtype=bool),
    }


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB; skipped where one may not mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode != 0:
        pytest.skip("file systems may not be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def shell(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


@pytest.mark.parametrize("name", ["data.hdf5", "data.npz", "data.mmap", "local/small-v0"])
def test_a_full_disk_ends_a_conversion_in_one_line(name: str, small_disk: Path, tmp_path: Path) -> None:
    """HDF5 used to end the process, and left a damaged set behind that was there already."""
    np.savez(tmp_path / "source.npz", env_id="Pendulum-v1", **arrays())  # type: ignore[arg-type]
    minari = "/" in name
    if minari:
        pytest.importorskip("minari")
    target = name if minari else str(small_disk / name)
    ended = shell("convert", str(tmp_path / "source.npz"), target, MINARI_DATASETS_PATH=str(small_disk))
    assert ended.returncode == 2, ended.stderr
    assert "could not be written (No space left on device)" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    shutil.rmtree(small_disk / "data.mmap.partial", ignore_errors=True)  # is kept, to go on from
    assert [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size > 1000] == []
    np.savez(tmp_path / "less.npz", env_id="Pendulum-v1", **arrays(200))  # type: ignore[arg-type]
    ended = shell("convert", str(tmp_path / "less.npz"), target, MINARI_DATASETS_PATH=str(small_disk))
    assert ended.returncode == 0, ended.stderr


def test_a_full_disk_leaves_a_checkpoint_named(small_disk: Path) -> None:
    (small_disk / "model.zip").write_bytes(bytes(290_000))
    model = CQL("MlpPolicy", "sb3_offline/Pendulum-medium-v0", policy_kwargs={"net_arch": [32, 32]}, device="cpu")
    for write in (model.save, model.save_replay_buffer):
        with pytest.raises(OSError, match=r"model\.\w+ could not be written \(No space left on device\)"):
            write(str(small_disk / ("model.zip" if write == model.save else "model.npz")))
    assert [path.name for path in small_disk.iterdir()] == ["model.zip"]
    assert (small_disk / "model.zip").read_bytes() == bytes(290_000)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_a_folders_place(exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    for text in ("one", "two"):
        with draft_of(tmp_path / "folder") as draft:
            draft.mkdir()
            (draft / "file").write_text(text)
        assert (tmp_path / "folder" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failed_exchange_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("one")
    move = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == "folder" and target == tmp_path / "folder":
            raise OSError("gone")
        return move(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="could not be written"), draft_of(tmp_path / "folder") as draft:
        draft.mkdir()
    assert (tmp_path / "folder" / "file").read_text() == "one"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.parametrize("suffix", [".mmap", ".hdf5"])
def test_killed_conversions_lose_nothing_and_are_cleaned_up(suffix: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "source.npz", env_id="Pendulum-v1", **arrays(60_000))  # type: ignore[arg-type]
    target = tmp_path / f"target{suffix}"
    first = shell("convert", str(tmp_path / "source.npz"), str(target))
    assert first.returncode == 0, first.stderr
    before = load_dataset(target).fingerprint()
    program = (
        "import os, signal, sys; from sb3_offline.files import atomic;"
        "stop = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "atomic.put_in_place = stop; atomic.os.fsync = stop;" + PROGRAM
    )
    words = ["convert", str(tmp_path / "source.npz"), str(target), "--force", "--reward-scale", "2"]
    ended = subprocess.run([sys.executable, "-c", program, *words], capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    assert load_dataset(target).fingerprint() == before
    left = [path for path in tmp_path.iterdir() if path.name not in ("source.npz", target.name)]
    assert len(left) == 1
    age(left[0])
    assert shell(*words).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.npz", target.name]
    assert load_dataset(target).fingerprint() != before


def age(path: Path) -> None:
    """As if it had been left a minute ago."""
    for file in [path, *path.rglob("*")]:
        os.utime(file, (time.time() - 60,) * 2)


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    (tmp_path / "file12345678.partial").write_text("left")
    (tmp_path / "file.partial").write_text("somebody's")
    (tmp_path / "file1234567890.partial").write_text("somebody's")
    (tmp_path / ".file.draft-mine").mkdir()
    (tmp_path / ".file.draft-mine" / "own").write_text("somebody's: there is no lock")
    for path in tmp_path.iterdir():
        age(path)

    def write(_: object) -> None:
        (living,) = (path for path in tmp_path.iterdir() if path.name.startswith("file") and path.stat().st_size == 0)
        age(living)
        remove_abandoned([living])
        assert living.exists()

    write_atomically(tmp_path / "file", write)
    with draft_of(tmp_path / "file") as draft:
        age(draft.parent)
        remove_abandoned([draft.parent])
        draft.write_text("new")
    names = [".file.draft-mine", "file", "file.partial", "file1234567890.partial"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_mapped_data_that_are_in_use_are_replaced(tmp_path: Path) -> None:
    save_mapped(load_dataset(arrays(), env_id="Pendulum-v1"), tmp_path / "data.mmap")
    used = load_dataset(tmp_path / "data.mmap")
    expected = used.observations[:].copy()
    with draft_of(tmp_path / "data.mmap") as draft:
        save_mapped(load_dataset(arrays(shift=1.0), env_id="Pendulum-v1"), draft)
    np.testing.assert_array_equal(used.observations[:], expected)
