"""The right cause is named: of paths, files that are in use, guesses by name, lists, and data that leave nothing to learn."""

from __future__ import annotations

import glob
import gzip
import multiprocessing
import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer

from sb3_offline import COMBO
from sb3_offline.datasets import DatasetError, DatasetWarning, SpacesOnlyEnv, load_dataset, open_dataset
from sb3_offline.dynamics.world import split_episodes
from tests.conftest import Arrays
from tests.datasets.test_successors import SPACES, N, linear

SMALL: Arrays = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 32, "seed": 0, "device": "cpu"}


def write(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


# --- paths ---


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_text_is_no_folder(name: str) -> None:
    """Which the path "." would be."""
    with pytest.raises(DatasetError, match="An empty text names no data"):
        open_dataset(name)


def test_a_pattern_is_no_file(tmp_path: Path) -> None:
    """The list that the message gives is read as one."""
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", **linear(20))
    pattern = str(tmp_path / "*.npz")
    with pytest.raises(DatasetError, match=r"no such file .* As a pattern: sorted\(glob.glob\(.*\)\) is the list") as refused:
        open_dataset(pattern)
    advice = re.search(r"(sorted\(.*\)\)) is the list", str(refused.value))
    assert advice is not None
    assert len(load_dataset(eval(advice[1], {"glob": glob}), **SPACES)) == 40


@pytest.mark.parametrize(
    ("name", "way_on"), [("log.zarr", "zarr.open"), ("log.xlsx", "pandas.read_excel"), ("log.mat", "scipy.io.loadmat")]
)
def test_files_of_other_formats(name: str, way_on: str, tmp_path: Path) -> None:
    """A folder, or a zip archive by right; one that is missing is a missing file, and no Minari id."""
    with pytest.raises(DatasetError, match="there is no such file"):
        open_dataset(tmp_path / name)
    with pytest.raises(DatasetError, match="there is no such file"):
        open_dataset(str(tmp_path / name))
    if name == "log.zarr":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"PK\x03\x04" if name == "log.xlsx" else b"MATLAB 5.0")
    with pytest.raises(DatasetError, match=way_on):
        open_dataset(str(tmp_path / name))


@pytest.mark.parametrize(
    "name",
    ["s3://bucket/log.parquet", "gs://bucket/log.hdf5", "https://host/log.npz", "az://c/log.npz", "ftp://host/log.csv"],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_addresses(name: str, kind: type) -> None:
    scheme = name.partition(":")[0]
    with pytest.raises(
        DatasetError, match=rf"this is an address \({scheme}\), and nothing is read from the network. Download it"
    ):
        open_dataset(kind(name))


@pytest.mark.parametrize("name", ["log.hdf5", "log.npz", "log.parquet", "log.txt"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS.*`git lfs pull`"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"", "it is empty"),
        (gzip.compress(b"rows", mtime=0), "compressed by gzip: unpack it"),
        (b"\x93NUMPY\x01\x00", "a single array of numpy.save"),
        (b"\x80\x04\x95", "a pickle"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file: give it a name that ends in .hdf5"),
        (b"PAR1", "a Parquet file"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    if {".npz": b"PK", ".hdf5": b"\x89H", ".parquet": b"PA"}.get(Path(name).suffix) == content[:2]:
        message = "damaged|cut short|unpack"  # it begins as its name says
    if name == "log.parquet":
        pytest.importorskip("pyarrow")
        message += "|table cannot be read" if content[:2] == b"\x1f\x8b" else ""  # a compressed table is read
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path / name, **SPACES)


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "log.npz").symlink_to(tmp_path / "gone.npz")
    with pytest.raises(DatasetError, match=r"this link leads to .*gone\.npz, which is not there"):
        load_dataset(tmp_path / "log.npz", **SPACES)


def test_ids_of_d4rl_are_no_minari_ids() -> None:
    for name in ("hopper-medium-v2", "antmaze-large-diverse-v1", "pen-human-v0"):
        with pytest.raises(DatasetError, match=f"'{name}' is an id of D4RL.* path of its HDF5 file"):
            load_dataset(name)


def test_a_file_by_its_address(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", **linear())
    with pytest.raises(DatasetError, match=f"give the path itself, {tmp_path}/log.npz"):
        open_dataset(f"file://{tmp_path}/log.npz")
    assert len(load_dataset(f"{tmp_path}/log.npz", **SPACES)) == N


def _hold(path: str, ready: Any, done: Any) -> None:
    with h5py.File(path, "a"):
        ready.set()
        done.wait(60)


def test_a_file_that_another_program_is_writing(tmp_path: Path) -> None:
    path = write(tmp_path / "log.h5", linear())
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(path), ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(DatasetError, match=r"log\.h5: another program, or this one, has this file open for writing"):
            load_dataset(path, **SPACES)
    finally:
        done.set()
        holder.join()
    assert len(load_dataset(path, **SPACES)) == N


# --- a file's name is only a guess ---


@pytest.mark.parametrize("name", ["hopper_feeder.hdf5", "walker2d-v0.h5", "HalfCheetah_line.h5"])
def test_a_name_does_not_outweigh_what_the_caller_says(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, linear())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_dataset(path, **SPACES)
    assert data.env_spec is None
    assert data.observation_space == SPACES["observation_space"]
    with pytest.raises(DatasetError, match="names no environment and no spaces"):  # not the shapes of a hopper
        load_dataset(path)


def test_spaces_of_another_kind_win_over_a_name_that_would_fit(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    rng = np.random.default_rng(0)
    arrays = linear(200) | {"observations": rng.normal(size=(200, 11)), "actions": rng.uniform(-3, 3, (200, 3))}
    arrays["next_observations"] = arrays["observations"] + 0.1
    path = write(tmp_path / "hopper_feeder.hdf5", arrays)
    own = {"observation_space": spaces.Box(-np.inf, np.inf, (11,)), "action_space": spaces.Box(-3, 3, (3,))}
    assert load_dataset(path, **own).env_spec is None
    with pytest.warns(UserWarning, match="is taken for Hopper-v5"):
        assert open_dataset(path).info.env_spec is not None


# --- lists and single episodes ---


def parts_of(arrays: Arrays, *lengths: int) -> list[Arrays]:
    ends = np.cumsum(lengths)
    return [
        {key: value[end - length : end] for key, value in arrays.items() if key != "next_observations"}
        for end, length in zip(ends, lengths, strict=True)
    ]


def test_an_episode_of_one_row_leaves_the_others_in_the_list() -> None:
    arrays = linear(41)
    arrays["truncations"][[19, 20, 40]], arrays["truncations"][39] = True, False
    with pytest.warns(DatasetWarning, match="1 of 3 sources are left out: source 2 of 3: arrays: no row is left"):
        data = load_dataset(parts_of(arrays, 20, 1, 20), **SPACES)
    assert data.episode_lengths().tolist() == [19, 19]
    assert [part["rows"] for part in data.info.card["parts"]] == [19, 0, 19]
    with pytest.raises(DatasetError, match="no row is left"):
        load_dataset(parts_of(arrays, 1, 1), **SPACES)


def test_a_terminal_row_by_itself_stays() -> None:
    arrays = linear(41)
    arrays["truncations"][:] = False
    arrays["terminations"][20] = True
    data = load_dataset(parts_of(arrays, 20, 1, 20), **SPACES)
    assert data.episode_lengths().tolist() == [19, 1, 19]


def test_what_is_read_is_the_callers_no_longer() -> None:
    arrays = {key: value if value.dtype == bool else value.astype(np.float32) for key, value in linear().items()}
    arrays["rewards"] = arrays["rewards"][:, None]  # a view is not the caller's array, but its memory
    data = load_dataset(arrays, **SPACES)
    before = data.fingerprint()
    for value in arrays.values():
        value[:] = 1
    assert data.fingerprint() == before


# --- nothing to learn from ---


@pytest.mark.filterwarnings("ignore")
def test_rows_of_which_none_has_a_next_observation_are_for_no_dynamics_model() -> None:
    arrays = linear() | {"terminations": np.ones(N, bool), "truncations": np.zeros(N, bool)}
    del arrays["next_observations"]
    env = SpacesOnlyEnv(**SPACES)
    with pytest.raises(ValueError, match=r"of 6000 rows 0 have one that was logged. Log next_observations also where"):
        COMBO("MlpPolicy", env, dataset=arrays, **SMALL).learn(1)
    arrays["terminations"] = np.arange(N) != 1000  # one row
    with pytest.raises(ValueError, match="of 6000 rows 1 have one"):
        split_episodes(load_dataset(arrays, **SPACES), 0)


class Reach(gym.Env):
    """A point that is to reach three."""

    observation_space = spaces.Dict({k: spaces.Box(-9, 9, (1,)) for k in ("observation", "achieved_goal", "desired_goal")})
    action_space = spaces.Box(-1, 1, (1,))
    x, t = 0.0, 0

    def compute_reward(self, achieved: Any, desired: Any, _info: Any) -> np.ndarray:
        return -(np.abs(np.asarray(achieved) - desired).sum(-1) > 0.1).astype(float)

    def _seen(self) -> dict[str, np.ndarray]:
        x = np.array([self.x], np.float32)
        return {"observation": x, "achieved_goal": x, "desired_goal": np.array([3], np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t = 0.0, 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.x, self.t = float(np.clip(self.x + action[0], -9, 9)), self.t + 1
        seen = self._seen()
        reward = float(self.compute_reward(seen["achieved_goal"], seen["desired_goal"], {}))
        return seen, reward, False, self.t >= 10, {}


def test_hindsight_buffers_are_read_as_they_were_logged_and_say_so() -> None:
    model = SAC("MultiInputPolicy", Reach(), replay_buffer_class=HerReplayBuffer, learning_starts=9999, device="cpu")
    model.learn(200)
    with pytest.warns(DatasetWarning, match="HerReplayBuffer: hindsight relabelling happens where SB3 samples"):
        data: Any = load_dataset(model.replay_buffer)
    assert data.episode_lengths().tolist() == [10] * 20
    assert (data.observations["desired_goal"] == 3).all()


# --- what people have at hand ---


class Halves(ReplayBuffer):
    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(rewards=samples.rewards / 2)


class Latest(ReplayBuffer):
    def sample(self, batch_size: int, env: Any = None) -> Any:
        return self._get_samples(np.arange(batch_size))


@pytest.mark.parametrize("kind", [Halves, Latest])
def test_buffers_that_do_something_where_they_sample_say_so(kind: Any) -> None:
    buffer = kind(50, SPACES["observation_space"], SPACES["action_space"])
    for step in range(20):
        state = np.full((1, 3), 0.01 * step)
        buffer.add(state, state + 0.01, np.zeros((1, 1)), np.array([4.0]), np.zeros(1, bool), [{}])
    with pytest.warns(DatasetWarning, match=f"{kind.__name__}: what this class does where it samples"):
        dataset = load_dataset(buffer)
    assert dataset.rewards.tolist() == [4.0] * 20


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: gym.make("sb3_offline/Pendulum-medium-v0"), r"An environment is given as env=; .*get_dataset\(\)"),
        (lambda: SAC("MlpPolicy", "Pendulum-v1", buffer_size=9), "A model is no data, its model.replay_buffer is"),
        (lambda: RolloutBuffer(9, SPACES["observation_space"], SPACES["action_space"]), "keeps neither next observations"),
        (lambda: ({} for _ in range(3)), r"read once only: list\(...\)"),
        (lambda: np.zeros((9, 5)), "it is not known which numbers are what"),
    ],
)
def test_what_is_no_data_is_told_what_is(source: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(source(), **SPACES)
    assert len(load_dataset(gym.make("sb3_offline/Pendulum-medium-v0").unwrapped.get_dataset())) == 30_000  # as it says


def test_numbers_of_episodes_are_said_to_tell_where_episodes_end() -> None:
    arrays = linear()
    lengths = np.diff(np.append(np.flatnonzero(arrays.pop("truncations")), N - 1), prepend=-1)
    arrays["episode_id"] = x = np.repeat(np.arange(len(lengths)), lengths)
    with pytest.warns(
        DatasetWarning, match=r"'episode_id' tells where episodes end: .*numpy\.append\(x\[1:\] != x\[:-1\], True\)"
    ):
        assert load_dataset(arrays, **SPACES).n_episodes == 1
    del arrays["episode_id"]
    assert load_dataset(arrays | {"truncations": np.append(x[1:] != x[:-1], True)}, **SPACES).n_episodes == x[-1] + 1


def test_sparse_matrices_are_read() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    arrays = linear()
    expected = load_dataset(arrays, **SPACES).observations
    arrays["observations"] = sparse.csr_matrix(arrays["observations"])
    np.testing.assert_array_equal(load_dataset(arrays, **SPACES).observations, expected)


def test_a_list_of_steps_is_told_from_a_list_of_episodes() -> None:
    """As buffers of one's own keep them; what the message says makes them whole."""
    arrays = linear()
    rows: Any = [{key: values[i] for key, values in arrays.items()} for i in range(N)]
    with pytest.raises(DatasetError, match=rf"a list of {N:,} steps.*numpy\.array\(\[row\[name\] for row in rows\]\)"):
        load_dataset(rows, **SPACES)
    joined = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    expected = load_dataset(arrays, **SPACES)
    assert load_dataset(joined, **SPACES).fingerprint() == expected.fingerprint()
    tuples = [tuple(row.values()) for row in rows]
    with pytest.raises(DatasetError, match=r"a list of .* steps.*dict\(zip\(.*map\(numpy\.array, zip\(\*rows\)\)"):
        load_dataset(tuples, **SPACES)
    zipped = dict(zip(arrays, map(np.array, zip(*tuples, strict=True)), strict=True))
    assert load_dataset(zipped, **SPACES).fingerprint() == expected.fingerprint()


def test_kinds_of_steps_are_said_to_tell_where_episodes_end() -> None:
    """dm_env's: 0 first, 1 mid, 2 last, with a discount of 0 where the task ended."""
    arrays = linear()
    ends, discount = arrays.pop("truncations"), np.ones(N)
    x = np.where(ends, 2, 1)
    discount[np.flatnonzero(ends)[::2]] = 0.0
    arrays["step_type"] = x
    with pytest.warns(DatasetWarning, match=r"'step_type' .*terminations = \(x == 2\) & \(discount == 0\)"):
        load_dataset(arrays, **SPACES)
    del arrays["step_type"]
    read = load_dataset(
        arrays | {"terminations": (x == 2) & (discount == 0), "truncations": (x == 2) & (discount != 0)}, **SPACES
    )
    assert read.n_episodes == load_dataset(arrays | {"truncations": ends}, **SPACES).n_episodes
    assert read.terminations.sum() == len(np.flatnonzero(ends)[::2])


DISCRETE: dict[str, Any] = {"observation_space": spaces.Box(-1, 1, (2,)), "action_space": spaces.Discrete(3)}


@pytest.mark.parametrize(
    ("change", "said", "mend"),
    [
        (
            {"actions": np.eye(3)[np.arange(9) % 3]},
            "These are one-hot: give actions as numbers, x.argmax",
            {"actions": np.arange(9) % 3},
        ),
        ({"actions": np.arange(9) % 3 + 1}, "They are 1 to 3: give x - 1", {"actions": np.arange(9) % 3}),
        ({"actions": np.arange(9) % 3 * 1.0}, "These are whole: give actions as whole numbers", {"actions": np.arange(9) % 3}),
        ({"actions": np.arange(9) % 3 + 0.01}, "If they are rounded ones, give actions", {"actions": np.arange(9) % 3}),
        ({"terminations": ["no"] * 8 + ["yes"]}, "'no', 'yes': give bools, x == 'yes'", {"terminations": np.arange(9) == 8}),
    ],
)
def test_the_way_on_from_other_codes(change: dict[str, Any], said: str, mend: dict[str, Any]) -> None:
    rows = {"observations": np.zeros((9, 2)), "actions": np.arange(9) % 3, "rewards": np.zeros(9)}
    rows |= {"terminations": np.arange(9) == 8, "truncations": np.zeros(9, bool)}
    with pytest.raises(DatasetError, match=re.escape(said)):
        load_dataset({**rows, **change}, **DISCRETE)
    assert load_dataset({**rows, **change, **mend}, **DISCRETE).fingerprint() == load_dataset(rows, **DISCRETE).fingerprint()


def test_one_row_is_too_few_for_a_dynamics_model() -> None:
    rows = {key: value[:1] for key, value in linear().items()}
    with pytest.raises(ValueError, match="one row is too few for a dynamics model"):
        split_episodes(load_dataset(rows, **SPACES), 0)


def test_tensors_of_bfloat16() -> None:
    rows: dict[str, Any] = {"actions": np.arange(9) % 3, "rewards": torch.arange(9, dtype=torch.bfloat16)}
    rows |= {"observations": np.zeros((9, 2)), "terminations": np.arange(9) == 8, "truncations": np.zeros(9, bool)}
    assert load_dataset(rows, **DISCRETE).rewards.tolist() == list(range(9))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("log.jsonl", "pandas.read_json"),
        ("log.mat", "scipy.io.loadmat"),
        ("log.npz.gz", "Unpack it"),
        ("log.xlsx", "read_excel"),
    ],
)
def test_the_way_on_from_other_formats(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'{"a": 1}')
    with pytest.raises(DatasetError, match=f"is not a known format.*{re.escape(said)}"):
        load_dataset(tmp_path / name)
