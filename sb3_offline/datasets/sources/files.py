"""Data files, opened by their suffix. Reading one never runs code from it, nor opens another file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.hdf5 import open_hdf5
from sb3_offline.datasets.sources.npz import open_npz
from sb3_offline.datasets.sources.raw import RawSource

HDF5_SUFFIXES = (".hdf5", ".h5")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".zip")


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
        return open_hdf5(path)
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
