"""The right cause is named: of paths, files that are in use, guesses by name, lists, and data that leave nothing to learn."""

from __future__ import annotations

import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC, HerReplayBuffer

from sb3_offline import COMBO
from sb3_offline.datasets import DatasetError, DatasetWarning, SpacesOnlyEnv, load_dataset, open_dataset
from sb3_offline.dynamics.world import split_episodes
from tests.datasets.test_successors import SPACES, N, linear

Arrays = dict[str, Any]
SMALL: Arrays = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 32, "seed": 0, "device": "cpu"}


def write(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


# --- paths ---


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
