"""Data files: flat HDF5 (D4RL's layout) and npz. Reading one never runs code from it, nor opens another file."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from sb3_offline.common.archives import FileRefused, check_expansion, open_archive
from sb3_offline.datasets.checks import ALIASES
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES
from sb3_offline.datasets.sources.raw import Arrays, RawSource, collect_metadata, raw_from_metadata

HDF5_SUFFIXES = (".hdf5", ".h5")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".zip")
_ARRAY_KEYS = (*ARRAY_NAMES, *ALIASES)
_BY_KEY = ("observations", "next_observations")  # may be arrays by key
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError)  # of what zipfile unpacks
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
_TASKS_IN_FILE_NAMES = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}


def looks_like_file(name: str) -> bool:
    """Whether a string is meant as a data file rather than as an id."""
    return Path(name).suffix.lower() in (*HDF5_SUFFIXES, ".npz", ".npy", *_PICKLE_SUFFIXES)


def open_file(path: Path) -> RawSource:
    """Open a data file by its suffix; only its metadata are read.

    :raises DatasetError: for a missing file, a directory, a pickle, an unknown suffix, or a damaged file
    """
    suffix, mode = path.suffix.lower(), file_mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise DatasetError(
            f"{path} is a directory without observations.npy; a data file (.hdf5, .h5 or .npz), a folder of .npy files "
            "or a Minari id is needed."
        )
    if suffix in _PICKLE_SUFFIXES:
        raise DatasetError(
            f"{path}: pickled data are refused, because reading them runs code from the file. Save the arrays with "
            "numpy.savez_compressed as .npz, or as HDF5."
        )
    if mode is None:
        raise DatasetError(f"{path}: there is no such file (looked in {path.absolute().parent}).")
    if not stat.S_ISREG(mode):
        raise DatasetError(f"{path}: this is a device or a pipe, not a file. Write the data to a file first.")
    if not os.access(path, os.R_OK):
        raise DatasetError(f"{path}: no permission to read this file.")
    if suffix in HDF5_SUFFIXES:
        return _open_hdf5(path)
    if suffix == ".npz":
        return open_npz(path, path.name)
    raise DatasetError(f"{path}: {suffix or 'no suffix'} is not a known format; .hdf5, .h5 and .npz are.")


def path_of(name: str | Path) -> Path:
    """With the home folder in place of ``~``, where there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def file_mode(path: Path) -> int | None:
    """A file's type and permissions, or None if there is none of that name.

    :raises DatasetError: if the system does not let us look
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character in the name
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise DatasetError(f"{path}: cannot be read ({error.strerror}).") from error


def open_npz(path: Path, dataset_id: str) -> RawSource:
    """An npz file: the arrays by name, and optionally ``metadata`` (JSON text) or ``env_id``."""
    with _npz(path) as file:
        keys = [key for key in file.files if key in ("env_id", "metadata") or key.startswith("metadata/")]
        metadata = collect_metadata(dataset_id, {key: _npz_member(path, file, key) for key in keys})

    def read() -> Arrays:
        with _npz(path) as file:
            known = {key: _npz_member(path, file, key) if _is_array_key(key) else None for key in file.files}
            return _by_key(known)

    return raw_from_metadata(dataset_id, read, metadata)


def _is_array_key(key: str) -> bool:
    return key in _ARRAY_KEYS or key.partition("/")[0] in _BY_KEY


def _by_key(arrays: dict[str, Any]) -> dict[str, Any]:
    """``observations/image`` and the like, gathered into one mapping of arrays for each name."""
    gathered: dict[str, Any] = {}
    for key, array in arrays.items():
        name, _, part = key.partition("/")
        if part and name in _BY_KEY and name not in arrays:
            gathered.setdefault(name, {})[part] = array
        else:
            gathered[key] = array
    return gathered


@contextmanager
def _npz(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as stream:
            _check_zip(path, stream)
            with np.load(stream, allow_pickle=False) as file:
                yield file
    except _DAMAGE as error:
        raise DatasetError(f"{path}: the file is damaged or cut short ({error}). Copy it again.") from error


def _check_zip(path: Path, stream: IO[bytes]) -> None:
    magic = stream.read(2)
    stream.seek(0)
    if magic[:1] == b"\x80":
        raise DatasetError(
            f"{path}: this is a pickle, whatever its name. Pickled data are refused, because reading them runs code "
            "from the file."
        )
    if magic != b"PK" or not zipfile.is_zipfile(stream):
        raise DatasetError(
            f"{path}: this is not an npz file, or it is damaged or cut short. Write it with numpy.savez_compressed."
        )
    try:
        open_archive(stream, str(path))
    except FileRefused as error:
        raise DatasetError(str(error)) from error
    stream.seek(0)


def _npz_member(path: Path, file: Any, key: str) -> np.ndarray:
    try:
        _check_header(file, key)
        return file[key]
    except _DAMAGE:
        raise
    except Exception as error:  # numpy refuses object arrays, which are pickled; a forged header raises any kind
        raise DatasetError(
            f"{path}: {key} cannot be read: {error}. Arrays of dtype object are pickled, and pickled data are refused, "
            "because reading them runs code from the file. Give rectangular arrays of numbers."
        ) from error


def _check_header(file: Any, key: str) -> None:
    """numpy allocates the shape that a member's header names: it must be that of the bytes that follow."""
    info = file.zip.getinfo(key if key in file.zip.namelist() else f"{key}.npy")
    with file.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"its format {version} is for arrays with named fields")
        shape, _, dtype = _HEADERS[version](member)
        expected = member.tell() + dtype.itemsize * math.prod(shape)
    if not dtype.hasobject and expected != info.file_size:
        raise ValueError(f"its header says {dtype} of shape {shape}, which its {info.file_size} bytes do not hold")


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _open_hdf5(path: Path) -> RawSource:
    with _hdf5(path) as file:
        metadata = collect_metadata(path.name, _hdf5_metadata(file))

    def read() -> Arrays:
        with _hdf5(path) as file:
            keys = [key for key in file if key in _ARRAY_KEYS]
            groups = [key for key in keys if key in _BY_KEY and _is_group(file, key)]
            keys = [key for key in keys if key not in groups] + [f"{key}/{part}" for key in groups for part in file[key]]
            arrays = {key: _hdf5_dataset(path, file, key) for key in keys}
            _check_size(path, *arrays.values())
            return _by_key(
                {key: None for key in file if key not in groups} | {key: array[()] for key, array in arrays.items()}
            )

    raw = raw_from_metadata(path.name, read, metadata)
    task = re.match(r"(hopper|halfcheetah|walker2d)[-_]", path.name.lower())
    if raw.env_id is None and task:
        inferred = _TASKS_IN_FILE_NAMES[task.group(1)]
        return replace(raw, env_id=inferred, env_id_from=f"the file's name, {path.name}: the file itself names no task")
    return raw


@contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            _refuse_links_out(path, file)
            yield file
    except DatasetError:
        raise
    except Exception as error:  # of a damaged file h5py raises any kind
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
