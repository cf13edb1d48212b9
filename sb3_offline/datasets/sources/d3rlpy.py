"""d3rlpy's ReplayBuffer.dump: HDF5 with one array a key and episode (``observations_0``, ``observations_1``, ...)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.episodes import Episode, episodic_source
from sb3_offline.datasets.sources.hdf5 import hdf5_array, holds, opened_hdf5
from sb3_offline.datasets.sources.hdf5_safety import check_numbers, check_sizes
from sb3_offline.datasets.sources.raw import RawSource

_KEYS = ("observations", "actions", "rewards", "terminated")


def is_d3rlpy(path: Path) -> bool:
    """Whether an HDF5 file has d3rlpy's layout (its format 2.1)."""
    return holds(path, "num_episodes", "columns")


def open_d3rlpy(path: Path) -> RawSource:
    """
    Episodes without the observation after their last action, as d3rlpy keeps them: of a terminated episode the last row is
    used, of a cut one it is not, and d3rlpy does the same.

    :raises DatasetError: if the number of episodes is missing or absurd
    """
    with opened_hdf5(path) as file:
        n_episodes = hdf5_array(path, file, "num_episodes")[()]
        version = hdf5_array(path, file, "version")[()] if "version" in file else b"unknown"
        if not 0 < int(n_episodes) <= len(file):
            raise DatasetError(f"{path}: it says that it holds {n_episodes} episodes, in {len(file)} arrays.")
    reading = [f"{n_episodes:,} episodes of {path.name}, which hold no observation after the last action"]
    facts = {"source": f"d3rlpy ReplayBuffer, format {version.decode()}", "reading": reading}
    return episodic_source(path.name, str(path), lambda: _episodes(path, int(n_episodes)), facts)


def _episodes(path: Path, n_episodes: int) -> Iterator[Episode]:
    with opened_hdf5(path) as file:
        episodes = [{key: _array(path, file, f"{key}_{number}") for key in _KEYS} for number in range(n_episodes)]
        check_sizes(path, *(array for episode in episodes for array in episode.values()))
        for arrays in episodes:
            observations, actions, rewards, terminated = (arrays[key][()] for key in _KEYS)
            yield Episode(observations, actions, rewards, bool(terminated))


def _array(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    if f"{key}_0" in file and key.startswith("observations"):
        raise DatasetError(f"{path}: {key} is a tuple of arrays. SB3 knows no Tuple spaces: put them into one array.")
    if key not in file:
        raise DatasetError(f"{path}: {key} is missing.")
    array = hdf5_array(path, file, key)
    check_numbers(path, key, array)
    if key.startswith("terminated") != (array.shape == ()):
        raise DatasetError(
            f"{path}: {key} has shape {array.shape}; terminated is a single value, all else has one entry a row."
        )
    return array
