"""Images stay bytes, in either layout; observations by key become one structured array, from every source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer

from sb3_offline.buffers.storage import HostDatasetBuffer, make_dataset_buffer
from sb3_offline.datasets import DatasetError, load_dataset, save_mapped
from sb3_offline.datasets.checks import check_dataset
from sb3_offline.datasets.checks.statistics import hash_rows
from sb3_offline.shell.card import make_card
from sb3_offline.shell.writing import write_dataset

N, SIDE = 12, 4
IMAGE = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
CAMERA = spaces.Dict(image=IMAGE, speed=spaces.Box(-9.0, 9.0, (2,)), mode=spaces.Discrete(3))
TASK: dict[str, Any] = {"observation_space": CAMERA, "action_space": spaces.Discrete(2)}


def steps(n_rows: int = N) -> dict[str, Any]:
    """Two episodes of a walk: the next observation is that of the following row."""
    rng = np.random.default_rng(0)
    walk = {
        "speed": rng.normal(size=(n_rows + 1, 2)).astype(np.float32),
        "mode": rng.integers(0, 3, n_rows + 1),
        "image": rng.integers(0, 256, (n_rows + 1, SIDE, SIDE, 3)).astype(np.uint8),
    }
    ends = np.zeros(n_rows, dtype=bool)
    ends[[n_rows // 2 - 1, n_rows - 1]] = True
    return {
        "observations": {key: part[:-1] for key, part in walk.items()},
        "next_observations": {key: part[1:] for key, part in walk.items()},
        "actions": rng.integers(0, 2, n_rows),
        "rewards": rng.normal(size=n_rows),
        "terminations": np.zeros(n_rows, dtype=bool),
        "truncations": ends,
    }


def test_each_key_keeps_its_type_and_no_byte_is_added() -> None:
    arrays = steps()
    data: Any = load_dataset(arrays, **TASK)
    assert data.observations.dtype.names == ("image", "speed", "mode")  # the space's order
    assert [data.observations[key].dtype for key in CAMERA] == [np.uint8, np.float32, np.int64]
    for name in ("observations", "next_observations"):
        for key, part in arrays[name].items():
            np.testing.assert_array_equal(getattr(data, name)[key], part)
    assert data.observations.nbytes == N * (SIDE * SIDE * 3 + 8 + 2 * 4)


def test_images_are_not_copied_whatever_their_layout() -> None:
    last = np.random.default_rng(1).integers(0, 256, (N, SIDE, SIDE, 3)).astype(np.uint8)
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    rows = {name: value for name, value in steps().items() if "observations" not in name}
    for space, wanted in ((IMAGE, last), (spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8), first)):
        for given in (last, first):
            arrays = rows | {"observations": given, "next_observations": given}
            data: Any = load_dataset(arrays, observation_space=space, action_space=TASK["action_space"])
            assert data.observations.dtype == np.uint8
            assert np.shares_memory(data.observations, given)
            np.testing.assert_array_equal(data.observations, wanted)
    turned = spaces.Box(0, 255, (SIDE, 3, SIDE), np.uint8)  # no layout of these
    with pytest.raises(DatasetError, match="observations have shape"):
        load_dataset(rows | {"observations": last}, observation_space=turned, action_space=TASK["action_space"])


def test_the_layout_of_a_data_sets_own_space_may_differ() -> None:
    data: Any = load_dataset(steps(), **TASK)
    first = spaces.Dict({**CAMERA.spaces, "image": spaces.Box(0, 255, (3, SIDE, SIDE), np.uint8)})
    again: Any = load_dataset(data, observation_space=first)
    np.testing.assert_array_equal(again.observations["image"], np.moveaxis(data.observations["image"], -1, 1))
    with pytest.raises(DatasetError, match="does not match that of the data"):
        load_dataset(data, observation_space=spaces.Dict(image=IMAGE))


def test_files_hold_them(tmp_path: Path) -> None:
    arrays = steps()
    fingerprint = load_dataset(arrays, **TASK).fingerprint()
    by_key = ("observations", "next_observations")
    flat = {name: value for name, value in arrays.items() if name not in by_key}
    flat |= {f"{name}/{key}": part for name in by_key for key, part in arrays[name].items()}
    np.savez(tmp_path / "log.npz", **flat)
    with h5py.File(tmp_path / "log.h5", "w") as file:
        for name, value in flat.items():
            file[name] = value
    data = load_dataset(tmp_path / "log.npz", **TASK)
    np.savez(tmp_path / "structured.npz", **{name: getattr(data, name) for name in arrays})
    for name in ("log.npz", "log.h5", "structured.npz"):
        assert load_dataset(tmp_path / name, **TASK).fingerprint() == fingerprint
    arrays["observations"]["image"][7, 0, 0, 0] ^= 1
    assert load_dataset(arrays, **TASK).fingerprint() != fingerprint


def test_a_mapped_folder_gives_the_batches_of_memory(tmp_path: Path) -> None:
    data = load_dataset(steps(), **TASK)
    save_mapped(data, tmp_path / "log.mmap")
    mapped = load_dataset(tmp_path / "log.mmap", **TASK)
    buffers = [
        make_dataset_buffer(storage, source, data.observation_space, data.action_space, th.device("cpu"))  # type: ignore[arg-type]
        for storage, source in (("device", data), ("mmap", mapped))
    ]
    assert isinstance(buffers[1], HostDatasetBuffer)
    index = np.array([0, 5, 5, 11])
    for buffer in buffers:
        batch: Any = buffer._get_samples(th.as_tensor(index))
        for name in ("observations", "next_observations"):
            for key, part in steps()[name].items():
                np.testing.assert_array_equal(getattr(batch, name)[key].numpy(), part[index])
    assert buffers[0].observations["image"].nbytes == N * SIDE * SIDE * 3  # type: ignore[call-overload]


def test_an_sb3_dict_replay_buffer_is_read_in_the_order_of_time() -> None:
    space = spaces.Dict(a=spaces.Box(-1e3, 1e3, (1,)), b=spaces.Discrete(50))
    buffer = DictReplayBuffer(6, space, spaces.Discrete(2), "cpu", n_envs=2)
    for t in range(5):  # three rows of each of two environments: the ring has wrapped
        now, then = (
            {"a": np.array([[step], [100 + step]], np.float32), "b": np.array([[step], [10 + step]])} for step in (t, t + 1)
        )
        buffer.add(now, then, np.array([[0], [1]]), np.array([t, t]), np.zeros(2), [{}, {}])
    data: Any = load_dataset(buffer)
    assert data.observations["a"].ravel().tolist() == [2, 3, 4, 102, 103, 104]
    assert data.next_observations["b"].tolist() == [3, 4, 5, 13, 14, 15]
    assert np.flatnonzero(data.truncations).tolist() == [2, 5]


@pytest.mark.filterwarnings("ignore")
def test_minari_dicts_are_read_and_nested_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    inner = spaces.Dict(a=spaces.Box(-9.0, 9.0, (1,)), image=IMAGE)
    images = np.arange(4 * SIDE * SIDE * 3, dtype=np.uint8).reshape(4, SIDE, SIDE, 3)
    parts = {"a": np.arange(4, dtype=np.float32).reshape(4, 1), "image": images}
    for name, space, observations in (("flat", inner, parts), ("nested", spaces.Dict(deep=inner), {"deep": parts})):
        episode = minari.data_collector.EpisodeBuffer(
            observations=observations,
            actions=np.array([0, 1, 0]),
            rewards=[1.0, 2.0, 3.0],
            terminations=[False, False, True],
            truncations=[False] * 3,
        )
        minari.create_dataset_from_buffers(
            f"test/{name}-v0", [episode], observation_space=space, action_space=spaces.Discrete(2)
        )
    data: Any = load_dataset("test/flat-v0")
    assert data.observations["a"].ravel().tolist() == [0, 1, 2]
    assert data.next_observations["a"].ravel().tolist() == [1, 2, 3]
    np.testing.assert_array_equal(data.next_observations["image"], images[1:])
    assert data.observations["image"].dtype == np.uint8
    with pytest.raises(DatasetError, match="SB3 takes no nested spaces"):
        load_dataset("test/nested-v0")


@pytest.mark.filterwarnings("ignore")
def test_what_is_converted_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = load_dataset(steps(), **TASK)
    for target in (str(tmp_path / "log.npz"), str(tmp_path / "log.h5"), "test/robot-v0"):
        write_dataset(data, target)
        assert load_dataset(target, **TASK).fingerprint() == data.fingerprint()
    card = make_card(data)
    assert len(card.statistics.observations.mean) == SIDE * SIDE * 3 + 2 + 1


def test_rows_are_cut_chosen_and_joined() -> None:
    arrays = steps()
    del arrays["next_observations"]
    data: Any = load_dataset(arrays, **TASK)  # the last row of each cut episode has no successor
    modes = arrays["observations"]["mode"]
    assert data.observations["mode"].tolist() == [*modes[:5], *modes[6:11]]
    assert data.next_observations["mode"].tolist() == [*modes[1:6], *modes[7:12]]
    assert len(load_dataset([data, data]).observations["speed"]) == 20
    one = data.sample_episodes(0.5, seed=0)
    assert one.observations["mode"].tolist() in ([*modes[:5]], [*modes[6:11]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": None}, r"a mapping of arrays with the keys \['image', 'speed', 'mode'\] is needed"),
        ({"speed": {"x": np.zeros(N)}}, r"observations\['speed'\] is itself a mapping. SB3 takes no nested"),
        ({"speed": np.zeros((N - 1, 2))}, r"observations\['speed'\] 11"),
        ({"speed": np.full((N, 2), np.nan)}, r"observations\['speed'\] hold NaN or inf .* first in row 0"),
        ({"mode": np.full(N, 3)}, r"observations\['mode'\] leave the space"),
        ({"image": np.zeros((N, SIDE, SIDE, 3))}, r"observations\['image'\] are float64"),
        ({"image": np.full((N, SIDE, SIDE, 3), 256)}, r"observations\['image'\] leave the space"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(change: dict[str, Any], message: str) -> None:
    arrays = steps()
    observations = {key: part for key, part in (arrays["observations"] | change).items() if part is not None}
    with pytest.raises(DatasetError, match=message):
        load_dataset(arrays | {"observations": observations}, **TASK)


def test_only_observations_may_be_mappings() -> None:
    with pytest.raises(DatasetError, match="actions is a mapping of arrays; only observations may be one"):
        load_dataset(steps() | {"actions": {"a": np.zeros(N)}}, **TASK)
    with pytest.raises(DatasetError, match=r"observations live in Dict.* not one array"):
        load_dataset(steps() | {"observations": np.zeros((N, 3))}, **TASK)


def checks_of(arrays: dict[str, Any]) -> set[str]:
    return {finding.check for finding in check_dataset(load_dataset(arrays, **TASK))}


def test_the_gate_looks_at_every_key() -> None:
    assert checks_of(steps()) == {"few_rows"}
    for key, value in (("image", 1), ("mode", 1), ("speed", 0.5)):
        arrays = steps()
        arrays["next_observations"] = {name: part.copy() for name, part in arrays["next_observations"].items()}
        part = arrays["next_observations"][key]
        part[2] = (part[2] + value) % 3 if key == "mode" else part[2] + part.dtype.type(value)
        assert "broken" in checks_of(arrays)
    arrays = steps()
    rounded = arrays["next_observations"]["speed"] * np.float32(1 + 1e-6)
    arrays["next_observations"] = arrays["next_observations"] | {"speed": rounded}
    assert "broken" not in checks_of(arrays)


def test_long_rows_are_told_apart_to_the_bit() -> None:
    images = np.random.default_rng(2).integers(0, 256, (30, 40, 40, 3)).astype(np.uint8)  # more than a slice of rows
    flags, numbers = np.zeros(30, dtype=bool), np.zeros((30, 2), np.float32)
    images[20], numbers[20] = images[10], -0.0  # row 20 repeats row 10
    images[25] = images[11]
    images[25, 39, 39, 2] ^= 1
    hashes = hash_rows(images, numbers, flags).tolist()
    assert [hashes.count(value) for value in hashes] == [2 if row in (10, 20) else 1 for row in range(30)]


def test_pixels_that_never_change_are_no_finding_but_numbers_are() -> None:
    arrays = steps()
    for name in ("observations", "next_observations"):
        arrays[name]["image"] = np.zeros((N, SIDE, SIDE, 3), np.uint8)
    assert checks_of(arrays) == {"few_rows"}
    for name in ("observations", "next_observations"):
        arrays[name]["speed"] = np.ones((N, 2), np.float32)
    findings = check_dataset(load_dataset(arrays, **TASK))
    constant = next(finding for finding in findings if finding.check == "constant_observations")
    assert constant.where == f"dimensions {SIDE * SIDE * 3}, {SIDE * SIDE * 3 + 1}"  # image, speed, mode
