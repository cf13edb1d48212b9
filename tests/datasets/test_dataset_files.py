"""npz and D4RL-style HDF5 files, whole and damaged."""

from __future__ import annotations

import json
import os
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sb3_offline.datasets import DatasetError, load_dataset, open_dataset
from tests.conftest import Arrays, Trap

Spaces = dict[str, Any]


def write_hdf5(path: Path, arrays: Any, env_id: str | None = None) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        if env_id is not None:
            file["metadata/env_id"] = env_id
    return path


def locomotion(observation_dim: int, action_dim: int) -> Arrays:
    """Eight rows, two episodes, in D4RL's names."""
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(8, observation_dim)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (8, action_dim)).astype(np.float32),
        "rewards": np.arange(8, dtype=np.float32),
        "terminals": np.array([0, 0, 0, 1, 0, 0, 0, 0], dtype=bool),
        "timeouts": np.array([0, 0, 0, 0, 0, 0, 0, 1], dtype=bool),
    }


def test_npz_gives_the_same_data_as_its_arrays(tmp_path: Path, episodes: Arrays, task_spaces: Spaces) -> None:
    np.savez_compressed(tmp_path / "log.npz", **episodes)
    data: Any = load_dataset(tmp_path / "log.npz", **task_spaces)
    assert data.fingerprint() == load_dataset(episodes, **task_spaces).fingerprint()
    assert data.info.dataset_id == "log.npz"


def test_npz_metadata_name_the_task_and_the_rest_is_the_card(tmp_path: Path) -> None:
    arrays = locomotion(3, 1)
    facts = {"env_id": "Pendulum-v1", "reference_min_score": -10.0, "reference_max_score": 90, "robot": "left"}
    np.savez(tmp_path / "log.npz", metadata=json.dumps(facts), **arrays)
    info: Any = open_dataset(str(tmp_path / "log.npz")).info
    assert info.env_spec.id == "Pendulum-v1"
    assert info.normalized_score(40.0) == 50.0
    assert info.card == {"robot": "left"}


def test_hdf5_as_d4rl_writes_it(tmp_path: Path, task_spaces: Spaces) -> None:
    arrays = locomotion(2, 1)
    path = write_hdf5(tmp_path / "log.hdf5", {**arrays, "infos/qpos": np.zeros(8), "metadata/policy/w": np.zeros(2)})
    data: Any = load_dataset(str(path), **task_spaces)
    np.testing.assert_array_equal(data.observations, arrays["observations"][:7])
    np.testing.assert_array_equal(data.next_observations[4:], arrays["observations"][5:])
    assert data.valid_next.tolist() == [True, True, True, False, True, True, True]
    assert data.episode_returns().tolist() == [6.0, 15.0]


@pytest.mark.parametrize(
    ("name", "value", "packed"), [("scale_factor", 2.0, True), ("add_offset", 1.0, True), ("scale_factor", 1.0, False)]
)
def test_hdf5_that_is_packed_as_netcdf_is_refused(
    name: str, value: float, packed: bool, tmp_path: Path, task_spaces: Spaces
) -> None:
    path = write_hdf5(tmp_path / "log.hdf5", locomotion(2, 1))
    with h5py.File(path, "a") as file:
        file["actions"].attrs[name] = value
    with pytest.raises(DatasetError, match=f"actions is packed, as its attribute {name} says") if packed else nullcontext():
        load_dataset(str(path), **task_spaces)


def test_hdf5_names_its_task(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "any.h5", locomotion(3, 1), "Pendulum-v1")
    info: Any = open_dataset(path).info
    assert info.env_spec.id == "Pendulum-v1"
    assert "env_id_from" not in info.card


@pytest.mark.parametrize(
    ("name", "task", "dims"),
    [
        ("hopper_medium_expert-v2.hdf5", "Hopper-v5", (11, 3)),
        ("halfcheetah-random-v2.hdf5", "HalfCheetah-v5", (17, 6)),
        ("walker2d_medium-v2.hdf5", "Walker2d-v5", (17, 6)),
    ],
)
def test_the_file_name_of_genuine_d4rl_tells_the_task_and_says_so(
    tmp_path: Path, name: str, task: str, dims: tuple[int, int]
) -> None:
    pytest.importorskip("mujoco")
    path = write_hdf5(tmp_path / name, locomotion(*dims))
    with pytest.warns(UserWarning, match=f"{name} is taken for {task} from the file's name"):
        data: Any = load_dataset(path)
    assert data.env_spec.id == task
    assert name in data.info.card["env_id_from"]
    assert "older MuJoCo" in data.info.card["reference_scores"]
    assert data.normalized_score(data.info.reference_max_score) == 100.0


def test_an_explicit_env_id_comes_before_the_file_name(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = write_hdf5(tmp_path / "hopper_swing-v0.hdf5", locomotion(3, 1))
    data: Any = load_dataset(path, env_id="Pendulum-v1")
    assert data.env_spec.id == "Pendulum-v1"
    assert "env_id_from" not in data.info.card
    assert not [w for w in recwarn if "is taken for" in str(w.message)]


def test_a_file_that_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"log\.hdf5 names no environment and no spaces"):
        open_dataset(write_hdf5(tmp_path / "log.hdf5", locomotion(3, 1)))


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.npz: there is no such file"):
        load_dataset(tmp_path / "gone.npz")
    with pytest.raises(DatasetError, match="is a directory"):
        load_dataset(tmp_path)
    with pytest.raises(DatasetError, match="is a directory"):
        load_dataset(str(tmp_path))
    (tmp_path / "log.txt").write_text("1,2")
    with pytest.raises(DatasetError, match=r"\.txt is not a known format"):
        load_dataset(tmp_path / "log.txt")


@pytest.mark.parametrize("kept", [3, 100, 0.5, 0.98])
@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_cut_files(tmp_path: Path, task_spaces: Spaces, suffix: str, kept: float) -> None:
    arrays = locomotion(2, 1)
    arrays["observations"] = np.random.default_rng(0).normal(size=(8, 2))
    path = tmp_path / f"log.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, **arrays)
    else:
        write_hdf5(path, arrays)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(DatasetError, match=r"log\..*(damaged|cut short)"):
        load_dataset(path, **task_spaces)


def test_damaged_content(tmp_path: Path, task_spaces: Spaces) -> None:
    path = tmp_path / "log.npz"
    np.savez_compressed(path, **{**locomotion(2, 1), "observations": np.random.default_rng(0).normal(size=(8, 2))})
    content = bytearray(path.read_bytes())
    middle = content.find(b"observations.npy") + 60
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(content))
    with pytest.raises(DatasetError, match=r"log\.npz"):
        load_dataset(path, **task_spaces)


@pytest.mark.parametrize("name", ["log.pkl", "log.pickle", "log.pt", "log.npz"])
def test_pickles_are_refused_and_not_run(tmp_path: Path, task_spaces: Spaces, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"observations": Trap(tmp_path / "trace")}))
    with pytest.raises(DatasetError, match=r"refused, because reading them runs code"):
        load_dataset(tmp_path / name, **task_spaces)
    assert not (tmp_path / "trace").exists()


def test_object_arrays_in_npz_are_refused_and_not_run(tmp_path: Path, task_spaces: Spaces, episodes: Arrays) -> None:
    trapped = np.array([Trap(tmp_path / "trace")] * 7, dtype=object)
    np.savez(tmp_path / "log.npz", **{**episodes, "rewards": trapped})
    with pytest.raises(DatasetError, match=r"rewards cannot be read.*dtype object"):
        load_dataset(tmp_path / "log.npz", **task_spaces)
    assert not (tmp_path / "trace").exists()


def test_hdf5_never_reads_another_file(tmp_path: Path, task_spaces: Spaces) -> None:
    other = write_hdf5(tmp_path / "other.h5", locomotion(2, 1))
    linked = tmp_path / "linked.h5"
    write_hdf5(linked, {name: array for name, array in locomotion(2, 1).items() if name != "rewards"})
    with h5py.File(linked, "a") as file:
        file["rewards"] = h5py.ExternalLink(other.name, "/rewards")
    with pytest.raises(DatasetError, match=r"rewards is an external link to 'other\.h5'"):
        load_dataset(linked, **task_spaces)
    with h5py.File(linked, "a") as file:
        del file["rewards"]
        file["deep/link"] = h5py.ExternalLink(other.name, "/rewards")
        file["rewards"] = h5py.SoftLink("/deep/link")
    with pytest.raises(DatasetError, match="external link"):
        load_dataset(linked, **task_spaces)

    with h5py.File(linked, "a") as file:
        del file["rewards"], file["deep"]
        layout = h5py.VirtualLayout(shape=(8,), dtype="f4")
        layout[:] = h5py.VirtualSource(other, "rewards", shape=(8,))
        file.create_virtual_dataset("rewards", layout)
    with pytest.raises(DatasetError, match="rewards lies in another file"):
        load_dataset(linked, **task_spaces)

    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(32))
    with h5py.File(linked, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", shape=(8,), dtype="f4", external=[(str(raw), 0, 32)])
    with pytest.raises(DatasetError, match="rewards lies in another file"):
        load_dataset(linked, **task_spaces)


def test_hdf5_group_and_text_instead_of_an_array(tmp_path: Path, task_spaces: Spaces) -> None:
    arrays = locomotion(2, 1)
    path = write_hdf5(tmp_path / "log.h5", {**arrays, "rewards": [b"a"] * 8})
    with pytest.raises(DatasetError, match=r"rewards has dtype"):
        load_dataset(path, **task_spaces)
    del arrays["observations"]
    path = write_hdf5(tmp_path / "log.h5", {**arrays, "observations/camera": np.zeros((8, 2))})
    with pytest.raises(DatasetError, match="observations is a mapping of arrays, but the space is Box"):
        load_dataset(path, **task_spaces)
    path = write_hdf5(tmp_path / "log.h5", {**arrays, "observations/camera/left": np.zeros((8, 2))})
    with pytest.raises(DatasetError, match="observations/camera is a group, not an array"):
        load_dataset(path, **task_spaces)


def test_hdf5_misspelt_key(tmp_path: Path, task_spaces: Spaces) -> None:
    arrays = locomotion(2, 1)
    arrays["rewrads"] = arrays.pop("rewards")
    with pytest.raises(DatasetError, match=r"log\.h5: the key 'rewards' is missing. There is 'rewrads'"):
        load_dataset(write_hdf5(tmp_path / "log.h5", arrays), **task_spaces)


def test_files_that_cannot_be_opened(tmp_path: Path, task_spaces: Spaces, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "log.npz")
    with pytest.raises(DatasetError, match=r"log\.npz: this is a device or a pipe"):  # reading it would wait for ever
        load_dataset(tmp_path / "log.npz", **task_spaces)
    (tmp_path / "log.h5").mkdir()
    with pytest.raises(DatasetError, match=r"log\.h5 is a directory"):
        load_dataset(tmp_path / "log.h5", **task_spaces)
    np.savez(tmp_path / "closed.npz", **locomotion(2, 1))
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may read everything
    with pytest.raises(DatasetError, match=r"closed\.npz: no permission"):
        load_dataset(tmp_path / "closed.npz", **task_spaces)


@pytest.mark.parametrize("name", ["x" * 300 + ".npz", "nul\0.npz", "~nobody-of-this-name/log.npz"])
def test_names_that_no_file_can_have(task_spaces: Spaces, name: str) -> None:
    for source in (name, Path(name)):
        with pytest.raises(DatasetError, match="there is no such file"):
            load_dataset(source, **task_spaces)


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_files_in_a_read_only_folder(tmp_path: Path, task_spaces: Spaces, suffix: str) -> None:
    path = tmp_path / "shared" / f"log.{suffix}"
    path.parent.mkdir()
    if suffix == "npz":
        np.savez(path, **locomotion(2, 1))
    else:
        write_hdf5(path, locomotion(2, 1))
    path.chmod(0o444)
    path.parent.chmod(0o555)
    assert len(load_dataset(path, **task_spaces)) == 7
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing was written beside it
    path.parent.chmod(0o755)


def test_hdf5_metadata_as_one_text(tmp_path: Path, task_spaces: Spaces) -> None:
    path = write_hdf5(tmp_path / "log.h5", {**locomotion(3, 1), "metadata": json.dumps({"env_id": "Pendulum-v1"})})
    info: Any = open_dataset(path).info
    assert info.env_spec.id == "Pendulum-v1"
    path = write_hdf5(tmp_path / "bad.h5", {**locomotion(2, 1), "metadata": "{"})
    with pytest.raises(DatasetError, match=r"bad\.h5: metadata is not a JSON object"):
        load_dataset(path, **task_spaces)
