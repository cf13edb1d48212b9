"""Paths: which are data files, and what is wrong with those that are none. Reading one never runs code from it."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.files.kinds import true_kind

HDF5_SUFFIXES = (".hdf5", ".h5")
TABLE_SUFFIXES = (".parquet", ".pq", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".arrow", ".feather")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_SUFFIXES = (*HDF5_SUFFIXES, ".npz", ".npy", ".gz", ".zip", *TABLE_SUFFIXES, *_PICKLE_SUFFIXES)


def looks_like_file(path: Path) -> bool:
    """Whether a path is meant as a data file rather than as an id: by its suffix, or because there is such a file."""
    mode = file_mode(path)
    return path.suffix.lower() in (*_SUFFIXES, *_WAYS_ON) or (mode is not None and not stat.S_ISDIR(mode))


def is_directory(path: Path) -> bool:
    mode = file_mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_regular(path: Path) -> bool:
    mode = file_mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_data_file(*suffixes: str) -> Callable[[Path], bool]:
    """Whether a path is a readable file with one of these suffixes; capital letters do not matter."""

    def is_one(path: Path) -> bool:
        mode = file_mode(path) if path.name.lower().endswith(suffixes) else None
        return mode is not None and stat.S_ISREG(mode) and os.access(path, os.R_OK)

    return is_one


_BY_PANDAS = " Read it by pandas.read_{} and give the frame, with columns=."
_UNPACK = " Unpack it, and give what is in it."
#: What to do with files of other formats.
_WAYS_ON = {
    ".json": _BY_PANDAS.format("json"),
    ".jsonl": _BY_PANDAS.format("json(..., lines=True)"),
    ".xlsx": _BY_PANDAS.format("excel"),
    ".xls": _BY_PANDAS.format("excel"),
    ".orc": _BY_PANDAS.format("orc"),
    ".db": _BY_PANDAS.format("sql"),
    ".sqlite": _BY_PANDAS.format("sql"),
    ".mat": " Read it by scipy.io.loadmat (or h5py, from version 7.3 on) and give a dict of its arrays.",
    ".safetensors": " Read it by safetensors.numpy.load_file and give the dict.",
    ".zarr": " Read it by zarr.open and give a dict of its arrays.",
    ".tfrecord": " Read it by tensorflow_datasets, as NumPy arrays, and give a dict of these for each episode.",
    **dict.fromkeys((".zip", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z"), _UNPACK),
}


def refuse_file(path: Path) -> NoReturn:
    """
    Say why no format opens a path.

    :raises DatasetError: always: for a missing file, a directory, a pickle, an unknown suffix
    """
    suffix, mode = path.suffix.lower(), file_mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise DatasetError(
            f"{path} is a directory without observations.npy and without tables; a data file (.hdf5, .h5, .npz, .parquet, "
            f".csv, ...), a folder of .npy files or of tables, or a Minari id is needed.{_WAYS_ON.get(suffix, '')}"
        )
    with suppress(OSError):  # of a name that no file can have
        if mode is None and path.is_symlink():
            raise DatasetError(f"{path}: this link leads to {path.readlink()}, which is not there.")
    if suffix in _PICKLE_SUFFIXES:
        raise DatasetError(
            f"{path}: pickled data are refused, because reading them runs code from the file. Save the arrays with "
            "numpy.savez_compressed as .npz, or as HDF5."
        )
    if mode is None:
        pattern = (
            f" As a pattern: sorted(glob.glob({str(path)!r})) is the list of its files." if set("*?[") & set(str(path)) else ""
        )
        raise DatasetError(f"{path}: there is no such file (looked in {path.absolute().parent}).{pattern}")
    if not stat.S_ISREG(mode):
        raise DatasetError(f"{path}: this is a device or a pipe, not a file. Write the data to a file first.")
    if not os.access(path, os.R_OK):
        raise DatasetError(f"{path}: no permission to read this file.")
    if suffix != ".xlsx" and (why := true_kind(path)) is not None:  # which is a zip archive by right
        raise DatasetError(f"{path} cannot be read as data: {why}.")
    raise DatasetError(
        f"{path}: {suffix or 'no suffix'} is not a known format; {', '.join((*HDF5_SUFFIXES, '.npz', *TABLE_SUFFIXES))} are."
        f"{_WAYS_ON.get(suffix, '')}"
    )


def is_address(source: object) -> bool:
    """Whether a source is an address on the network, such as s3://bucket/log.parquet; a Path of one has lost a slash."""
    return isinstance(source, (str, Path)) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(source)) is not None


def refuse_address(source: object) -> NoReturn:
    """:raises DatasetError: always, with the way to the data"""
    scheme, _, rest = str(source).partition(":")
    if scheme.lower() == "file":
        raise DatasetError(f"{source}: give the path itself, {'/' + rest.lstrip('/')}.")
    raise DatasetError(
        f"{source}: this is an address ({scheme}), and nothing is read from the network. Download it by its own tool "
        "(aws s3 cp, gsutil cp, curl -O, huggingface-cli download, ...) and give the file on disk."
    )


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
