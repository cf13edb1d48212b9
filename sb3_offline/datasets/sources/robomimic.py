"""robomimic's HDF5: ``data/demo_0/obs/<key>``, ``actions``, ``rewards``, ``dones``, optionally ``next_obs/<key>``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.episodes import Episode, episodic_source
from sb3_offline.datasets.sources.hdf5 import hdf5_array, holds, opened_hdf5
from sb3_offline.datasets.sources.hdf5_safety import check_numbers, check_sizes
from sb3_offline.datasets.sources.raw import RawSource, plain
from sb3_offline.datasets.sources.tables.columns import Names, groups_of, parse_observations
from sb3_offline.datasets.sources.task import Task

_SINGLE = ("actions", "rewards", "dones")


def is_robomimic(path: Path) -> bool:
    """Whether an HDF5 file has robomimic's layout: all demonstrations in a group ``data``."""
    return holds(path, "data") and not holds(path, "observations")


def open_robomimic(path: Path, task: Task) -> RawSource:
    """
    Demonstrations by number. Their observations are a Dict of all keys, or those that ``columns={"observations": ...}`` names:
    a list of keys is one vector. ``dones`` are terminations, as robomimic's own algorithms take them; where a row that is one
    is followed by more, these are another episode.

    :raises DatasetError: if there is no demonstration, or a key is missing
    """
    with opened_hdf5(path) as file:
        data = file["data"]
        demos = sorted((name for name in data if re.fullmatch(r"demo_\d+", name)), key=lambda name: int(name[5:]))
        if not isinstance(data, h5py.Group) or not demos:
            raise DatasetError(f"{path}: data holds no demonstrations, demo_0 and so on.")
        keys = sorted(_group(path, data[demos[0]], "obs"))
        facts = _environment(plain(data.attrs.get("env_args", "{}")))
    chosen: Any = {key: (key,) for key in keys}
    if task.columns is not None:
        chosen = parse_observations(task.columns, keys, str(path))
    reading = [f"{len(demos)} demonstrations of {path.name}", f"observations: {chosen}; there are {', '.join(keys)}"]
    facts |= {"source": "robomimic", "reading": reading}
    return episodic_source(path.name, str(path), lambda: _episodes(path, demos, chosen), facts)


def _environment(text: Any) -> dict[str, Any]:
    """What env_args say; they name a task of robosuite, which is no Gymnasium id."""
    try:
        arguments = json.loads(text)
        return {"robomimic_env": str(arguments["env_name"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _group(path: Path, parent: h5py.Group, key: str) -> h5py.Group:
    if not isinstance(parent, h5py.Group) or not isinstance(parent.get(key), h5py.Group):
        raise DatasetError(f"{path}: {parent.name} has no group {key!r}, which holds observations by key.")
    return parent[key]


def _episodes(path: Path, demos: list[str], chosen: Names | dict[str, Names]) -> Iterator[Episode]:
    with opened_hdf5(path) as file:
        data = file["data"]
        check_sizes(path, *(array for name in demos for array in _arrays(path, data[name], chosen)))
        for demo in (data[name] for name in demos):
            observations = _observations(path, _group(path, demo, "obs"), chosen)
            following = _observations(path, _group(path, demo, "next_obs"), chosen) if "next_obs" in demo else None
            actions, rewards, dones = (_array(path, demo, key)[()] for key in _SINGLE)
            yield Episode(observations, actions, rewards, dones != 0, following)


def _arrays(path: Path, demo: h5py.Group, chosen: Names | dict[str, Names]) -> Iterator[h5py.Dataset]:
    """All that is read of a demonstration."""
    groups = [_group(path, demo, name) for name in ("obs", "next_obs") if name == "obs" or name in demo]
    yield from (_array(path, group, key) for group in groups for names in groups_of(chosen).values() for key in names)
    yield from (_array(path, demo, key) for key in _SINGLE)


def _observations(path: Path, group: h5py.Group, chosen: Names | dict[str, Names]) -> Any:
    parts = {key: _side_by_side([_array(path, group, name)[()] for name in names]) for key, names in groups_of(chosen).items()}
    return parts.get("", parts)


def _side_by_side(arrays: list[np.ndarray]) -> np.ndarray:
    if len(arrays) == 1:
        return arrays[0] if arrays[0].ndim > 1 else arrays[0][:, None]
    flat = [array.reshape(len(array), -1) for array in arrays]
    return np.concatenate(flat, axis=1, dtype=np.result_type(np.float32, *flat))


def _array(path: Path, group: h5py.Group, key: str) -> h5py.Dataset:
    if key not in group:
        remedy = " robomimic's dataset_states_to_obs.py adds it (--done_mode says what dones mean)." if key in _SINGLE else ""
        raise DatasetError(f"{path}: {group.name} has no {key!r}.{remedy}")
    array = hdf5_array(path, group, key)
    if array.ndim == 0:
        raise DatasetError(f"{path}: {group.name}/{key} is a single value; one entry a row is needed.")
    check_numbers(path, f"{group.name}/{key}", array)
    return array
