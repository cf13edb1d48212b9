"""The buffer on disk: the data that were logged, and what was collected online."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import open_path

from sb3_offline.buffers.online_buffer import OfflineOnlineBuffer
from sb3_offline.datasets import open_dataset
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.model_file import FilePath, name_of
from sb3_offline.files.trust import is_trusted


def save_replay_buffer(model: Any, path: FilePath) -> None:
    """
    Write the logged data, and what was collected online, as an npz file that ``dataset=`` takes; never a pickle.

    :param path: the file, ``.npz`` if it has no suffix or ``.pkl``, or a stream
    """
    online = model.replay_buffer is not None and hasattr(model.replay_buffer, "timeouts")
    source = model.replay_buffer if online else model.load_dataset()
    data = open_dataset(source, observation_space=model.observation_space, action_space=model.action_space).load()
    arrays = {name: getattr(data, name) for name in data.array_names}
    if isinstance(model.replay_buffer, OfflineOnlineBuffer) and model.replay_buffer.n_online > 0:
        arrays["truncations"] = arrays["truncations"].copy()
        arrays["truncations"][-1] |= not arrays["terminations"][-1]  # online rows do not follow the data's last
        arrays = {name: np.concatenate([arrays[name], rows]) for name, rows in model.replay_buffer.online_rows().items()}
    if isinstance(path, (str, pathlib.Path)) and str(path).endswith(".pkl"):  # CheckpointCallback's name for it
        path = pathlib.Path(path).with_suffix(".npz")
    if isinstance(path, (str, pathlib.Path)):
        file = pathlib.Path(path) if pathlib.Path(path).suffix else pathlib.Path(f"{path}.npz")
        write_atomically(file, lambda stream: np.savez_compressed(stream, **arrays))
    else:
        np.savez_compressed(open_path(path, "w"), **arrays)


def load_replay_buffer(model: Any, path: FilePath, truncate_last_traj: bool = True, *, trust: bool = False) -> None:
    """
    Take a file as the data of the next ``learn``: one of :meth:`save_replay_buffer`, or any that ``dataset=`` takes.

    :param path: the file; where there is none, and the name has no suffix or ``.pkl``, the ``.npz`` that was saved for it
    :param trust: also read SB3's replay buffers, which are pickled: only those whose writer you trust
    :raises ValueError: if it is no data file, or pickled
    """
    file = pathlib.Path(path) if isinstance(path, (str, pathlib.Path)) else None
    if file is not None and file.suffix in ("", ".pkl") and not file.exists():
        written = file.with_suffix(".npz")
        path = file = written if written.exists() else file
    if file is not None and (file.is_dir() or file.suffix in (".npz", ".hdf5", ".h5")):
        open_dataset(str(path), observation_space=model.observation_space, action_space=model.action_space)
        model.dataset = str(path)
    elif is_trusted(trust):
        OffPolicyAlgorithm.load_replay_buffer(model, path, truncate_last_traj)
        model.dataset = model.replay_buffer
    else:
        raise FileRefused(
            f"{name_of(path)} is no .npz or .hdf5 file. SB3's replay buffers are pickled, and reading one can run "
            "any code. If you trust who wrote it, say trust=True."
        )
