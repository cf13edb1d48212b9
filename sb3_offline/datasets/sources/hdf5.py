"""Flat HDF5 files (D4RL's layout), of which no plugin is loaded and no other file opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sb3_offline.datasets.checks.keys import BY_KEY, UnreadArray, keys_to_read, meaning_of
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.raw import Arrays, RawSource, by_key, collect_metadata, raw_from_metadata
from sb3_offline.files.archives import FileRefused, check_expansion

#: HDF5's own filters and h5py's lzf. Any other is a plugin: a shared library, which HDF5 would load for the file's sake.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
}

#: D4RL's genuine files (e.g. hopper_medium_expert-v2.hdf5) do not name their task, but their names may tell it.
_TASKS_IN_FILE_NAMES = {
    "hopper": ("Hopper-v5", (11,), (3,)),
    "halfcheetah": ("HalfCheetah-v5", (17,), (6,)),
    "walker2d": ("Walker2d-v5", (17,), (6,)),
}


def open_hdf5(path: Path) -> RawSource:
    """An HDF5 file: the arrays by name, and optionally ``metadata`` (a group, or JSON text) and attributes."""
    with _hdf5(path) as file:
        metadata = collect_metadata(path.name, _hdf5_metadata(file))
        inferred = _task_in_name(path.name, file)

    def read() -> Arrays:
        with _hdf5(path) as file:
            keys = keys_to_read(file)
            groups = [key for key in keys if meaning_of(key) in BY_KEY and _is_group(file, key)]
            unread = {key: _unread(file, key) for key in file if key not in keys}
            keys = [key for key in keys if key not in groups] + [f"{key}/{part}" for key in groups for part in file[key]]
            arrays = {key: _hdf5_dataset(path, file, key) for key in keys}
            _check_size(path, *arrays.values())
            return by_key(unread | {key: array[()] for key, array in arrays.items()})

    raw = raw_from_metadata(path.name, read, metadata)
    if raw.env_id is None and inferred is not None:
        return replace(raw, env_id=inferred, env_id_from=f"the file's name, {path.name}: the file itself names no task")
    return raw


def _task_in_name(name: str, file: h5py.File) -> str | None:
    """The task that a file's name tells, if the arrays have its shapes."""
    match = re.match(r"(hopper|halfcheetah|walker2d)[-_]", name.lower())
    if match is None:
        return None
    task, *shapes = _TASKS_IN_FILE_NAMES[match.group(1)]
    found = [_unread(file, key).shape[1:] if key in file else None for key in ("observations", "actions")]
    return task if found == shapes else None


@contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            _refuse_links_out(path, file)
            yield file
    except DatasetError:
        raise
    except Exception as error:  # of a damaged file h5py raises any kind
        if any(sign in str(error) for sign in ("unable to lock file", "already open for write", "already open for SWMR")):
            raise DatasetError(
                f"{path}: another program, or this one, has this file open for writing. Close it there and read it again "
                "(a file that a crashed program left open: h5clear -s FILE)."
            ) from error
        raise DatasetError(f"{path}: not an HDF5 file, or damaged or cut short ({error}).") from error


def _refuse_links_out(path: Path, file: h5py.File) -> None:
    """Refuse whatever would make HDF5 read another file."""

    def link_out(name: str, link: Any) -> str | None:  # a value other than None ends the visit
        if isinstance(link, h5py.ExternalLink):
            return f"{name} is an external link to {link.filename!r}"
        return None if isinstance(link, (h5py.HardLink, h5py.SoftLink)) else f"{name} is a link of an unknown kind"

    found = file.visititems_links(link_out)
    if found is not None:
        raise DatasetError(f"{path}: {found}. A data file must hold its own data: copy them into one file.")


def _is_group(file: h5py.File, key: str) -> bool:
    return file.get(key, getclass=True) is h5py.Group


def _unread(file: h5py.File, key: str) -> UnreadArray:
    is_array = file.get(key, getclass=True) is h5py.Dataset
    return UnreadArray((file[key].shape or ()) if is_array else ())


def _hdf5_dataset(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    item = file[key]
    if not isinstance(item, h5py.Dataset):
        raise DatasetError(f"{path}: {key} is a group, not an array. Only observations may be a group, of arrays by key.")
    if item.is_virtual or item.external:
        raise DatasetError(f"{path}: {key} lies in another file. A data file must hold its own data: copy them into one.")
    filters = item.id.get_create_plist()
    for code, _, _, name in map(filters.get_filter, range(filters.get_nfilters())):
        if code not in _FILTERS:
            raise DatasetError(
                f"{path}: {key} is packed by {name.decode(errors='replace') or 'an unnamed filter'} (filter {code}), which "
                "HDF5 would load as a plugin. Pack it by gzip: h5repack -f GZIP=4 in.h5 out.h5."
            )
    return item


def _check_size(path: Path, *arrays: h5py.Dataset) -> None:
    """A shape costs nothing on disk until something is written."""
    try:
        check_expansion(str(path), sum(array.nbytes for array in arrays), path.stat().st_size)
    except FileRefused as error:
        raise DatasetError(str(error)) from error


def _hdf5_metadata(file: h5py.File) -> dict[str, Any]:
    """Short entries of ``metadata`` (a group, or JSON text) and attributes of the file; stored networks are skipped."""
    found: dict[str, Any] = {f"metadata/{key}": value for key, value in file.attrs.items() if np.ndim(value) == 0}
    if "metadata" not in file:
        return found
    if not _is_group(file, "metadata"):
        metadata = _hdf5_dataset(Path(file.filename), file, "metadata")
        _check_size(Path(file.filename), metadata)
        found["metadata"] = metadata[()]
    else:
        for key, item in file["metadata"].items():
            if isinstance(item, h5py.Dataset) and item.shape == () and not (item.is_virtual or item.external):
                found[f"metadata/{key}"] = item[()]
    return found
