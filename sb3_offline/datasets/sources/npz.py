"""npz files, whose arrays are read without unpickling anything."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from sb3_offline.datasets.checks.keys import UnreadArray, keys_to_read, on_one_level
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import row_blocks
from sb3_offline.datasets.sources.raw import Arrays, RawSource, by_key, collect_metadata, raw_from_metadata
from sb3_offline.files.archives import FileRefused, open_archive
from sb3_offline.files.kinds import true_kind

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError)  # of what zipfile unpacks
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def open_npz(path: Path, dataset_id: str) -> RawSource:
    """An npz file: the arrays by name, and optionally ``metadata`` (JSON text) or ``env_id``."""
    with _npz(path) as file:
        keys = list(file.files)
        described = [key for key in keys if key in ("env_id", "metadata") or key.startswith("metadata/")]
        metadata = collect_metadata(dataset_id, {key: _npz_member(path, file, key) for key in described})

    def read() -> Arrays:
        with _npz(path) as file:
            names = on_one_level({key: key for key in file.files})
            known = keys_to_read(names)
            return by_key(
                {key: _npz_member(path, file, name) if key in known else _unread(file, name) for key, name in names.items()}
            )

    def read_blocks(*_: Any) -> Iterator[Arrays]:
        shapes = npz_shapes(path)
        names = on_one_level({key: key for key in shapes})
        known = {key: names[key] for key in keys_to_read(names) if shapes[names[key]]}
        unread = {key: UnreadArray(shapes[name]) for key, name in names.items() if key not in known}
        lengths = {shapes[name][0] for name in known.values()}
        for rows, block in npz_blocks(path, known.values()):
            others = {key: array.block(rows, lengths) for key, array in unread.items()}
            yield by_key(others | {key: block[name] for key, name in known.items()})

    return raw_from_metadata(dataset_id, read, metadata, blocks=read_blocks)


def npz_blocks(path: Path, keys: Collection[str]) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """
    Rows of arrays block by block, with their numbers; what has no rows is left out.

    :raises DatasetError: for a damaged file, or an array that is pickled
    """
    with _npz(path) as file, ExitStack() as opened:
        members = {key: _Member(path, file, key, opened) for key in keys}
        members = {key: member for key, member in members.items() if member.shape}
        for rows in row_blocks(members.values()):
            yield rows, {key: member.rows(rows) for key, member in members.items()}


class _Member:
    """
    An array whose rows are read from the first to the last; one that lies column by column is read whole.

    :raises DatasetError: for a forged header, or an array that is pickled
    """

    def __init__(self, path: Path, file: Any, key: str, opened: ExitStack):
        with _named(path, key):
            self.shape, by_columns, self.dtype = _check_header(file, key)
            if self.dtype.hasobject:
                raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        self._whole = _npz_member(path, file, key) if by_columns else None
        self._stream = opened.enter_context(file.zip.open(_info(file, key)))
        _read_header(self._stream)

    def rows(self, rows: slice) -> np.ndarray:
        """The next rows."""
        if self._whole is not None:
            return self._whole[rows]
        n = max(min(rows.stop, self.shape[0]) - rows.start, 0)
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        return np.frombuffer(self._stream.read(n * size), self.dtype).reshape(n, *self.shape[1:])


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
    with _named(path, key):
        _check_header(file, key)
        return file[key]


@contextmanager
def _named(path: Path, key: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE:
        raise
    except Exception as error:  # numpy refuses object arrays, which are pickled; a forged header raises any kind
        raise DatasetError(
            f"{path}: {key} cannot be read: {error}. Arrays of dtype object are pickled, and pickled data are refused, "
            "because reading them runs code from the file. Give rectangular arrays of numbers."
        ) from error


def _unread(file: Any, key: str) -> UnreadArray:
    try:
        return UnreadArray(_check_header(file, key)[0])
    except _DAMAGE:
        raise
    except Exception:  # a member that is no array matters to nobody
        return UnreadArray(())


def _check_header(file: Any, key: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """
    The shape that a member's header names, which numpy allocates: it must be that of the bytes that follow. Also whether these
    lie column by column, and their type.
    """
    info = _info(file, key)
    with file.zip.open(info) as member:
        shape, by_columns, dtype = _read_header(member)
        expected = member.tell() + dtype.itemsize * math.prod(shape)
    if not dtype.hasobject and expected != info.file_size:
        raise ValueError(f"its header says {dtype} of shape {shape}, which its {info.file_size} bytes do not hold")
    return shape, by_columns, dtype


def _info(file: Any, key: str) -> zipfile.ZipInfo:
    return file.zip.getinfo(key if key in file.zip.namelist() else f"{key}.npy")


def _read_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"its format {version} is for arrays with named fields")
    return _HEADERS[version](member)


def npz_keys(path: Path) -> set[str]:
    """The names of a file's arrays; none of a file that is damaged, or no npz."""
    try:
        with _npz(path) as file:
            return set(file.files)
    except DatasetError:
        return set()


def npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """
    Of a file's arrays, by name; nothing else of them is read.

    :raises DatasetError: for a damaged file
    """
    with _npz(path) as file:
        return {key: _unread(file, key).shape for key in file.files}


def read_npz(path: Path, keys: Collection[str]) -> dict[str, np.ndarray]:
    """
    Some arrays of a file, whole.

    :raises DatasetError: for a damaged file, or an array that is pickled
    """
    with _npz(path) as file:
        return {key: _npz_member(path, file, key) for key in keys}
