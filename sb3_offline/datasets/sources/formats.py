"""Every format, in one list: the first that can open a source opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecEnv

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.sources.arrays import open_arrays, open_offline_dataset, open_replay_buffer
from sb3_offline.datasets.sources.builtin import builtin_name, open_builtin
from sb3_offline.datasets.sources.d3rlpy import is_d3rlpy, open_d3rlpy
from sb3_offline.datasets.sources.files import (
    HDF5_SUFFIXES,
    is_address,
    is_data_file,
    is_directory,
    looks_like_file,
    path_of,
    refuse_address,
    refuse_file,
)
from sb3_offline.datasets.sources.folder import is_folder, open_folder
from sb3_offline.datasets.sources.hdf5 import open_hdf5
from sb3_offline.datasets.sources.imitation import (
    are_trajectories,
    is_trajectory_folder,
    open_trajectories,
    open_trajectory_folder,
)
from sb3_offline.datasets.sources.lerobot import is_lerobot, open_lerobot
from sb3_offline.datasets.sources.minari import is_minari_dataset, is_remote_id, open_minari, open_minari_dataset
from sb3_offline.datasets.sources.npz import open_npz
from sb3_offline.datasets.sources.ogbench import is_ogbench, open_ogbench
from sb3_offline.datasets.sources.pickled import open_pickled_buffer
from sb3_offline.datasets.sources.raw import RawSource
from sb3_offline.datasets.sources.robomimic import is_robomimic, open_robomimic
from sb3_offline.datasets.sources.tables.opening import is_frame, is_table_file, is_table_folder, open_table
from sb3_offline.datasets.sources.task import Task


@dataclass(frozen=True)
class Format:
    """
    One kind of source.

    :param name: for messages
    :param opens: whether a source is of this kind, by its name and layout alone
    :param open: opens it; only what is needed to describe the data is read
    :param takes_columns: whether ``columns=`` means anything to it
    """

    name: str
    opens: Callable[[Any], bool]
    open: Callable[[Any, Task], RawSource]
    takes_columns: bool = False


def _in_memory(kind: type) -> Callable[[Any], bool]:
    return lambda source: isinstance(source, kind)


def _at_path(is_one: Callable[[Path], bool]) -> Callable[[Any], bool]:
    return lambda source: isinstance(source, (str, Path)) and is_one(path_of(source))


def _plainly(open_it: Callable[[Any], RawSource]) -> Callable[[Any, Task], RawSource]:
    """A reader to which it makes no difference what the caller says about the data."""
    return lambda source, _: open_it(source)


def _by_path(open_path: Callable[[Path], RawSource]) -> Callable[[Any, Task], RawSource]:
    return _plainly(lambda source: open_path(path_of(source)))


def _with_task(open_path: Callable[[Path, Task], RawSource]) -> Callable[[Any, Task], RawSource]:
    return lambda source, task: open_path(path_of(source), task)


def _file(is_one: Callable[[Path], bool], *suffixes: str) -> Callable[[Any], bool]:
    """Files with one of these suffixes, of which not all are of this kind."""
    has_suffix = is_data_file(*suffixes)
    return _at_path(lambda path: has_suffix(path) and is_one(path))


def _is_packaged(source: Any) -> bool:
    return isinstance(source, str) and builtin_name(source) is not None


def _open_minari_name(source: Any, task: Task) -> RawSource:
    try:
        return open_minari(source, download=task.download)
    except DatasetError:
        if is_directory(path_of(source)):
            refuse_file(path_of(source))
        raise


FORMATS = (
    Format("an OfflineDataset", _in_memory(OfflineDataset), _plainly(open_offline_dataset)),
    Format("an SB3 ReplayBuffer", _in_memory(ReplayBuffer), _plainly(open_replay_buffer)),
    Format("a pandas, polars or pyarrow table", is_frame, open_table, takes_columns=True),
    Format("imitation's trajectories", are_trajectories, _plainly(open_trajectories)),
    Format("a dict of arrays", _in_memory(Mapping), _plainly(open_arrays)),
    Format("a MinariDataset", is_minari_dataset, _plainly(open_minari_dataset)),
    Format("a Minari id with its server", is_remote_id, _open_minari_name),
    Format("an address", is_address, _plainly(refuse_address)),
    Format("a packaged id", _is_packaged, _plainly(open_builtin)),
    Format("a memory-mapped folder", _at_path(is_folder), _by_path(open_folder)),
    Format("a LeRobot folder", _at_path(is_lerobot), _with_task(open_lerobot), takes_columns=True),
    Format("a folder of imitation's trajectories", _at_path(is_trajectory_folder), _by_path(open_trajectory_folder)),
    Format("a folder of tables", _at_path(is_table_folder), open_table, takes_columns=True),
    Format("a table", _at_path(is_table_file), open_table, takes_columns=True),
    Format("a d3rlpy ReplayBuffer", _file(is_d3rlpy, *HDF5_SUFFIXES), _by_path(open_d3rlpy)),
    Format("robomimic's HDF5", _file(is_robomimic, *HDF5_SUFFIXES), _with_task(open_robomimic), takes_columns=True),
    Format("an HDF5 file", _at_path(is_data_file(*HDF5_SUFFIXES)), _by_path(open_hdf5)),
    Format("OGBench's npz", _file(is_ogbench, ".npz"), _with_task(open_ogbench), takes_columns=True),
    Format("an npz file", _at_path(is_data_file(".npz")), _by_path(lambda path: open_npz(path, path.name))),
    Format("a pickled replay buffer", _at_path(is_data_file(".pkl")), _with_task(open_pickled_buffer)),
    Format("a file of another kind", _at_path(looks_like_file), _by_path(refuse_file)),
    Format("any other path", _in_memory(Path), _by_path(refuse_file)),
    Format("a Minari id", _in_memory(str), _open_minari_name),
)


def open_one(source: Any, task: Task) -> RawSource:
    """
    Open a source that is not a list of sources.

    :raises DatasetError: if it is of no known kind, or ``columns`` are given for what is no table
    """
    if isinstance(source, str) and not source.strip():
        raise DatasetError("An empty text names no data: give an id or a file's path.")
    for kind in FORMATS:
        if kind.opens(source):
            raw = kind.open(source, task)
            if task.columns is not None and not kind.takes_columns:
                raise DatasetError(f"{raw.dataset_id}: columns= tells how to read a table; this is {kind.name}: leave it out.")
            return raw
    raise DatasetError(
        f"Data cannot be read from a {type(source).__name__}. {_meant_by(source)}Give an id, a file, a dict of arrays, a "
        "table, an SB3 ReplayBuffer, a MinariDataset, an OfflineDataset, or a list of these."
    )


def _meant_by(source: object) -> str:
    """What is needed in place of something else that people have at hand; a sentence, or nothing."""
    if isinstance(source, BaseAlgorithm):
        return "A model is no data, its model.replay_buffer is. "
    if isinstance(source, (gym.Env, VecEnv)):
        return "An environment is given as env=; data that it carries are env.unwrapped.get_dataset(). "
    if isinstance(source, RolloutBuffer):
        return "It keeps neither next observations nor which ends are terminations: log these by a callback. "
    if isinstance(source, Iterator):
        return "An iterator can be read once only: list(...) makes a list of it. "
    if isinstance(source, np.ndarray):
        return "Of one array alone it is not known which numbers are what. "
    return ""
