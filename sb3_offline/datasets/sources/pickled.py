"""SB3's pickled replay buffers, read only if the user trusts who wrote them: unpickling runs code."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.arrays import open_replay_buffer
from sb3_offline.datasets.sources.raw import RawSource
from sb3_offline.datasets.sources.task import Task


def open_pickled_buffer(path: Path, task: Task) -> RawSource:
    """
    What ``model.save_replay_buffer`` of Stable-Baselines3 wrote. A pickle cannot be read in part: the whole buffer is in
    memory.

    :raises DatasetError: without ``trust``, or if the file holds anything else
    """
    if not task.trust:
        raise DatasetError(
            f"{path}: pickled data are refused, because reading them runs code from the file. If it is SB3's replay buffer "
            "and you trust who wrote it: trust=True, or --trust. Save other arrays with numpy.savez_compressed as .npz, or as "
            "HDF5."
        )
    try:
        buffer = load_from_pkl(path)
    except Exception as error:  # an unpickler raises any kind
        raise DatasetError(f"{path}: this is no pickle, or damaged ({type(error).__name__}: {error}).") from error
    if not isinstance(buffer, ReplayBuffer):
        raise DatasetError(f"{path}: this is a pickled {type(buffer).__name__}, not SB3's ReplayBuffer.")
    return open_replay_buffer(buffer)
