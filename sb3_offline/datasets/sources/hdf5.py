"""Flat HDF5 files (D4RL's layout), of which no plugin is loaded and no other file opened."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py

from sb3_offline.datasets.checks.keys import BY_KEY, UnreadArray, keys_to_read, meaning_of, on_one_level
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import row_blocks
from sb3_offline.datasets.sources.hdf5_safety import (
    check_numbers,
    check_sizes,
    check_stored,
    check_unscaled,
    is_short,
    refuse_links_out,
)
from sb3_offline.datasets.sources.raw import Arrays, RawSource, by_key, collect_metadata, raw_from_metadata
from sb3_offline.files.kinds import true_kind

#: D4RL's genuine files (e.g. hopper_medium_expert-v2.hdf5) do not name their task, but their names may tell it.
_TASKS_IN_FILE_NAMES = {
    "hopper": ("Hopper-v5", (11,), (3,)),
    "halfcheetah": ("HalfCheetah-v5", (17,), (6,)),
    "walker2d": ("Walker2d-v5", (17,), (6,)),
}


def open_hdf5(path: Path) -> RawSource:
    """An HDF5 file: the arrays by name, and optionally ``metadata`` (a group, or JSON text) and attributes."""
    with opened_hdf5(path) as file:
        metadata = collect_metadata(path.name, _hdf5_metadata(file))
        inferred = _task_in_name(path.name, file)

    def read() -> Arrays:
        with opened_hdf5(path) as file:
            arrays, unread = _arrays(path, file), _unread_arrays(file)
            return by_key(unread | {key: array[()] for key, array in arrays.items()})

    def read_blocks(*_: Any) -> Iterator[Arrays]:
        with opened_hdf5(path) as file:
            arrays, unread = _arrays(path, file), _unread_arrays(file)
            arrays = {key: array for key, array in arrays.items() if array.ndim}
            lengths = {len(array) for array in arrays.values()}
            for rows in row_blocks(arrays.values()):
                others = {key: array.block(rows, lengths) for key, array in unread.items()}
                yield by_key(others | {key: array[rows] for key, array in arrays.items()})

    raw = raw_from_metadata(path.name, read, metadata, blocks=read_blocks)
    if raw.env_id is None and inferred is not None:
        return replace(raw, env_id=inferred, env_id_from=f"the file's name, {path.name}: the file itself names no task")
    return raw


def _arrays(path: Path, file: h5py.File) -> dict[str, h5py.Dataset]:
    """All arrays that are read, by name; those of a group as ``observations/key``."""
    names = _names(file)
    known = {key: names[key] for key in keys_to_read(names)}
    groups = {key: name for key, name in known.items() if meaning_of(key) in BY_KEY and _is_group(file, name)}
    parts = {f"{key}/{part}": f"{name}/{part}" for key, name in groups.items() for part in file[name]}
    known = {key: name for key, name in known.items() if key not in groups} | parts
    arrays = {key: hdf5_array(path, file, name) for key, name in known.items()}
    for key, array in arrays.items():
        check_numbers(path, key, array)
    check_sizes(path, *arrays.values())
    return arrays


def _names(file: h5py.File) -> Mapping[str, str]:
    """Where each key's array lies: under its own name, or in TorchRL's group ``next``."""
    inner = [f"next/{key}" for key in file["next"]] if _is_group(file, "next") else []
    return on_one_level({key: key for key in (*inner, *file) if not inner or key != "next"})


def _unread_arrays(file: h5py.File) -> dict[str, UnreadArray]:
    names = _names(file)
    known = keys_to_read(names)
    return {key: _unread(file, name) for key, name in names.items() if key not in known}


def _task_in_name(name: str, file: h5py.File) -> str | None:
    """The task that a file's name tells, if the arrays have its shapes."""
    match = re.match(r"(hopper|halfcheetah|walker2d)[-_]", name.lower())
    if match is None:
        return None
    task, *shapes = _TASKS_IN_FILE_NAMES[match.group(1)]
    found = [_unread(file, key).shape[1:] if key in file else None for key in ("observations", "actions")]
    return task if found == shapes else None


@contextmanager
def opened_hdf5(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            refuse_links_out(path, file)
            yield file
    except DatasetError:
        raise
    except Exception as error:  # of a damaged file h5py raises any kind
        if any(sign in str(error) for sign in ("unable to lock file", "already open for write", "already open for SWMR")):
            raise DatasetError(
                f"{path}: another program, or this one, has this file open for writing. Close it there and read it again "
                "(a file that a crashed program left open: h5clear -s FILE)."
            ) from error
        why = true_kind(path, b"\x89HDF\r\n\x1a\n")
        what = f"not an HDF5 file: {why}." if why else f"not an HDF5 file, or damaged or cut short ({error})."
        raise DatasetError(f"{path}: {what}") from error


def holds(path: Path, *keys: str) -> bool:
    """Whether an HDF5 file can be opened and has all of these keys on its first level."""
    try:
        with h5py.File(path, "r") as file:
            return all(key in file for key in keys)
    except Exception:  # of a damaged file h5py raises any kind: who opens it says so
        return False


def _is_group(file: h5py.File, key: str) -> bool:
    return file.get(key, getclass=True) is h5py.Group


def _unread(file: h5py.File, key: str) -> UnreadArray:
    is_array = file.get(key, getclass=True) is h5py.Dataset
    return UnreadArray((file[key].shape or ()) if is_array else ())


def hdf5_array(path: Path, file: h5py.Group, key: str) -> h5py.Dataset:
    item = file[key]
    if not isinstance(item, h5py.Dataset):
        raise DatasetError(f"{path}: {key} is a group, not an array. Only observations may be a group, of arrays by key.")
    check_stored(path, key, item)
    check_unscaled(path, key, item)
    return item


def _hdf5_metadata(file: h5py.File) -> dict[str, Any]:
    """Short entries of ``metadata`` (a group, or JSON text) and attributes of the file; stored networks are skipped."""
    found: dict[str, Any] = {}
    for key in file.attrs:
        if is_short(file.attrs.get_id(key)):
            found[f"metadata/{key}"] = file.attrs[key]
    if "metadata" not in file:
        return found
    if not _is_group(file, "metadata"):
        metadata = hdf5_array(Path(file.filename), file, "metadata")
        if is_short(metadata):
            found["metadata"] = metadata[()]
    else:
        for key, item in file["metadata"].items():
            if isinstance(item, h5py.Dataset) and not (item.is_virtual or item.external) and is_short(item):
                found[f"metadata/{key}"] = item[()]
    return found
