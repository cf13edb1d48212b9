"""npz files, whose arrays are read without unpickling anything."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from sb3_offline.datasets.checks.keys import UnreadArray, keys_to_read
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.raw import Arrays, RawSource, by_key, collect_metadata, raw_from_metadata
from sb3_offline.files.archives import FileRefused, open_archive
from sb3_offline.files.kinds import true_kind

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError)  # of what zipfile unpacks
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_npz(path: Path, dataset_id: str) -> RawSource:
    """An npz file: the arrays by name, and optionally ``metadata`` (JSON text) or ``env_id``."""
    with _npz(path) as file:
        keys = [key for key in file.files if key in ("env_id", "metadata") or key.startswith("metadata/")]
        metadata = collect_metadata(dataset_id, {key: _npz_member(path, file, key) for key in keys})

    def read() -> Arrays:
        with _npz(path) as file:
            known = keys_to_read(file.files)
            return by_key({key: _npz_member(path, file, key) if key in known else _unread(file, key) for key in file.files})

    return raw_from_metadata(dataset_id, read, metadata)


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
    magic = stream.read(4)
    stream.seek(0)
    if magic[:1] == b"\x80":
        raise DatasetError(
            f"{path}: this is a pickle, whatever its name. Pickled data are refused, because reading them runs code "
            "from the file."
        )
    if magic not in (b"PK\x03\x04", b"PK\x05\x06") or not zipfile.is_zipfile(stream):
        why = true_kind(path, b"PK\x03\x04", b"PK\x05\x06")
        raise DatasetError(
            f"{path}: this is not an npz file: {why}."
            if why
            else f"{path}: this is not an npz file, or it is damaged or cut short. Write it with numpy.savez_compressed."
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


def _unread(file: Any, key: str) -> UnreadArray:
    try:
        return UnreadArray(_check_header(file, key))
    except _DAMAGE:
        raise
    except Exception:  # a member that is no array matters to nobody
        return UnreadArray(())


def _check_header(file: Any, key: str) -> tuple[int, ...]:
    """The shape that a member's header names, which numpy allocates: it must be that of the bytes that follow."""
    info = file.zip.getinfo(key if key in file.zip.namelist() else f"{key}.npy")
    with file.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in _HEADERS:
            raise ValueError(f"its format {version} is for arrays with named fields")
        shape, _, dtype = _HEADERS[version](member)
        expected = member.tell() + dtype.itemsize * math.prod(shape)
    if not dtype.hasobject and expected != info.file_size:
        raise ValueError(f"its header says {dtype} of shape {shape}, which its {info.file_size} bytes do not hold")
    return shape


def npz_keys(path: Path) -> set[str]:
    """The names of a file's arrays; none of a file that is damaged, or no npz."""
    try:
        with _npz(path) as file:
            return set(file.files)
    except DatasetError:
        return set()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """
    Every array of a file.

    :raises DatasetError: for a damaged file, or an array that is pickled
    """
    with _npz(path) as file:
        return {key: _npz_member(path, file, key) for key in file.files}
