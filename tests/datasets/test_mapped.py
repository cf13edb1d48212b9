"""Folders of .npy files: what is written is what is read, without a copy of the next observations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_offline.datasets import DatasetError, DatasetInfo, MappedWriter, OfflineDataset, load_dataset, save_mapped
from sb3_offline.datasets import mapped as mapped_module
from sb3_offline.datasets.mapped import FollowingObservations
from sb3_offline.shell.writing import check_target, write_dataset

SPACES = {"observation_space": spaces.Box(-np.inf, np.inf, (1,)), "action_space": spaces.Box(-2.0, 2.0, (1,))}


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """0 1 2 | 10 11 | 20: a terminal end, a cut, and rows that run on to the end of the data."""
    return {
        "observations": column(0, 1, 2, 10, 11, 20),
        "next_observations": column(1, 2, 3, 11, 12, 21),
        "actions": column(0, 1, 2, -1, -2, 0.5),
        "rewards": np.arange(6.0),
        "terminations": np.array([0, 0, 1, 0, 0, 0], dtype=bool),
        "truncations": np.array([0, 0, 0, 0, 1, 0], dtype=bool),
    }


@pytest.fixture
def dataset(arrays: dict[str, np.ndarray]) -> OfflineDataset:
    return load_dataset(arrays, **SPACES)


def test_only_final_observations_are_kept_twice(dataset: OfflineDataset, tmp_path: Path) -> None:
    save_mapped(dataset, tmp_path / "log.mmap")
    assert np.load(tmp_path / "log.mmap/final_rows.npy").tolist() == [2, 4, 5]
    assert np.load(tmp_path / "log.mmap/final_observations.npy").tolist() == [[3], [12], [21]]
    assert not (tmp_path / "log.mmap/next_observations.npy").exists()
    back = load_dataset(tmp_path / "log.mmap", **SPACES)
    assert isinstance(back.observations, np.memmap)
    assert not back.observations.flags.writeable
    assert back.next_observations[:].ravel().tolist() == [1, 2, 3, 11, 12, 21]
    assert back.fingerprint() == dataset.fingerprint()


def test_following_observations_index_like_an_array() -> None:
    observations = column(0, 1, 2, 10, 11)
    following = FollowingObservations(observations, np.array([2, 4]), column(3, 12))
    everything = np.array([1, 2, 3, 11, 12])
    assert (len(following), following.shape, following.ndim, following.dtype) == (5, (5, 1), 2, np.float32)
    assert np.asarray(following).ravel().tolist() == everything.tolist()
    slices = slice(1, 4), slice(None, None, 2), slice(-2, None)
    for key in (*slices, np.array([4, 0, 4, 2]), np.array([-1, -3]), everything > 2):
        assert following[key].ravel().tolist() == everything[key].tolist()
    assert observations.ravel().tolist() == [0, 1, 2, 10, 11]


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_blocks_of_any_size_make_the_same_files(dataset: OfflineDataset, tmp_path: Path, size: int) -> None:
    """Also where a block ends inside an episode."""
    save_mapped(dataset, tmp_path / "whole.mmap")
    with MappedWriter(tmp_path / "blocks.mmap", dataset.info) as writer:
        for start in range(0, 6, size):
            rows = slice(start, start + size)
            names = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
            writer.append({name: getattr(dataset, name)[rows] for name in names})
    files = sorted(path.name for path in (tmp_path / "whole.mmap").iterdir())
    assert "final_rows.npy" in files
    for name in files:
        assert (tmp_path / "blocks.mmap" / name).read_bytes() == (tmp_path / "whole.mmap" / name).read_bytes()


def test_zeros_of_either_sign_survive(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    arrays["next_observations"][0] = -0.0
    arrays["observations"][1] = 0.0
    dataset = load_dataset(arrays, **SPACES)
    save_mapped(dataset, tmp_path / "log.mmap")
    assert np.signbit(load_dataset(tmp_path / "log.mmap", **SPACES).next_observations[:][0, 0])


def test_task_scores_and_card_survive(pendulum_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    dataset = load_dataset(pendulum_arrays, env_id="Pendulum-v1")
    info = replace(dataset.info, card={"robot": "left arm"}, reference_min_score=-7.0)
    save_mapped(replace(dataset, info=info), tmp_path / "log.mmap")
    back = load_dataset(str(tmp_path / "log.mmap"))
    assert back.env_spec is not None
    assert back.env_spec.id == "Pendulum-v1"
    assert back.info.card["robot"] == "left arm"
    assert back.info.reference_min_score == -7.0
    assert back.n_episodes == 5
    assert back.episode_returns() == pytest.approx(dataset.episode_returns())


def test_a_mapped_data_set_given_as_source_stays_mapped(dataset: OfflineDataset, tmp_path: Path) -> None:
    save_mapped(dataset, tmp_path / "log.mmap")
    again = load_dataset(load_dataset(tmp_path / "log.mmap", **SPACES), **SPACES)
    assert isinstance(again.observations, np.memmap)
    assert isinstance(again.next_observations, FollowingObservations)


def test_defects_are_named_with_their_row(dataset: OfflineDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_module, "BLOCK_ROWS", 4)
    folder = tmp_path / "log.mmap"
    save_mapped(dataset, folder)
    np.save(folder / "rewards.npy", np.array([0, 1, 2, 3, 4, np.nan], dtype=np.float32))
    with pytest.raises(DatasetError, match=r"rewards hold NaN .* first in row 1\. Drop .*\. Rows are counted from row 4 of 6"):
        load_dataset(folder, **SPACES)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("rewards", np.arange(6.0), "rewards are float64 of shape .* would have to become float32"),
        ("rewards", np.arange(5, dtype=np.float32), "their lengths are"),
        ("final_rows", np.array([2, 4]), "final_rows must be increasing int64 that end with the last row, 5"),
        ("final_rows", np.array([4, 2, 5]), "final_rows must be increasing"),
        ("actions", np.array([{}] * 6), "not a .npy file of numbers"),
        ("actions", None, "actions.npy is missing"),
        ("final_rows", None, "neither next_observations.npy nor final_rows.npy"),
    ],
)
def test_folders_that_cannot_be_mapped(dataset: OfflineDataset, tmp_path: Path, name: str, values: Any, message: str) -> None:
    save_mapped(dataset, tmp_path / "log.mmap")
    file = tmp_path / f"log.mmap/{name}.npy"
    file.unlink()
    if values is not None:
        np.save(file, values, allow_pickle=True)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path / "log.mmap", **SPACES)


def test_a_folder_with_all_next_observations_is_read(dataset: OfflineDataset, tmp_path: Path) -> None:
    """As anyone writes it with numpy.save."""
    for name in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations"):
        np.save(tmp_path / f"{name}.npy", getattr(dataset, name))
    back = load_dataset(tmp_path, **SPACES)
    assert isinstance(back.next_observations, np.memmap)
    assert back.fingerprint() == dataset.fingerprint()


def test_the_writer_refuses_and_cleans_up(dataset: OfflineDataset, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "log.mmap"
    with pytest.raises(DatasetError, match="actions leave the action space"), MappedWriter(folder, dataset.info) as writer:
        list(writer.append(arrays | {"actions": factor * arrays["actions"]}) for factor in (1, 9))
    assert not folder.exists()
    with pytest.raises(DatasetError, match="no rows were written"), MappedWriter(folder, dataset.info):
        pass
    del arrays["next_observations"]
    with pytest.raises(DatasetError, match="needs next_observations"), MappedWriter(folder, dataset.info) as writer:
        writer.append(arrays)
    save_mapped(dataset, folder)
    with pytest.raises(DatasetError, match="holds data already"):
        save_mapped(dataset, folder)


def test_a_folder_that_cannot_be_written_is_named(dataset: OfflineDataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "file" / "log.mmap"):
        with pytest.raises(OSError, match=rf"^{target} could not be written .*; a part of the path is a file: take another"):
            save_mapped(dataset, target)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


@pytest.mark.parametrize("there_before", [False, True])
def test_a_full_disk_leaves_no_part_of_a_folder(tmp_path: Path, there_before: bool) -> None:
    """The system itself refuses to let files grow beyond 64 kB; the observations have 360 kB."""
    folder = tmp_path / "log.mmap"
    if there_before:
        folder.mkdir()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(OSError, match=r"log\.mmap could not be written \(File too large\); .*; free some space"):
            save_mapped(load_dataset("Pendulum-medium-v0"), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.rglob("*")] == (["log.mmap"] if there_before else [])


def test_metadata_that_are_no_json(dataset: OfflineDataset, tmp_path: Path) -> None:
    save_mapped(dataset, tmp_path / "log.mmap")
    (tmp_path / "log.mmap/metadata.json").write_text("[")
    with pytest.raises(DatasetError, match="metadata is not a JSON object"):
        load_dataset(tmp_path / "log.mmap", **SPACES)


def test_the_info_alone_says_what_is_written() -> None:
    info = DatasetInfo("x", **SPACES, card={"a": 1}, reference_max_score=3.0)
    written = info.metadata()
    action = written.pop("action_space")  # of data that name no task, the spaces are written, too
    assert (action["kind"], action["low"], action["high"]) == ("Box", -2.0, 2.0)
    assert written.pop("observation_space")["kind"] == "Box"
    assert written == {"a": 1, "reference_max_score": 3.0}


def test_convert_writes_a_folder_and_replaces_only_such_a_one(dataset: OfflineDataset, tmp_path: Path) -> None:
    target = str(tmp_path / "log.mmap")
    for force in (False, True):
        check_target(target, force)
        write_dataset(dataset, target, {"robot": "left arm"})
    back = load_dataset(target, **SPACES)
    assert back.fingerprint() == dataset.fingerprint()
    assert back.info.card["robot"] == "left arm"
    with pytest.raises(ValueError, match="exists: take another name"):
        check_target(target)
    (tmp_path / "photos.mmap").mkdir()
    with pytest.raises(ValueError, match="a folder of something else"):
        check_target(str(tmp_path / "photos.mmap"), force=True)
