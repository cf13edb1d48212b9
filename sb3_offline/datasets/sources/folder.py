"""A folder of .npy files, which is memory-mapped: for data larger than memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from sb3_offline.datasets.checks import build_dataset
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import FollowingObservations, blocks_of, check_mapped
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES, MASK_NAMES, DatasetInfo, OfflineDataset
from sb3_offline.datasets.sources.files import file_mode
from sb3_offline.datasets.sources.folder_checksums import verify_checksums, write_checksums
from sb3_offline.datasets.sources.progress import Layout, Progress, clear_progress, read_progress, write_progress
from sb3_offline.datasets.sources.raw import RawSource, collect_metadata, raw_from_metadata
from sb3_offline.files.archives import check_expansion
from sb3_offline.files.atomic import named_target, write_atomically
from sb3_offline.files.refusal import FileRefused
from sb3_offline.files.regular import bytes_on_disk, is_regular, leads_out

FOLDER_SUFFIX = ".mmap"
_METADATA = "metadata.json"
_COLUMNS = tuple(name for name in ARRAY_NAMES if name != "next_observations")


def is_folder(path: Path) -> bool:
    """Whether a path is a folder of this format."""
    mode = file_mode(path / "observations.npy")
    return mode is not None and stat.S_ISREG(mode)


def open_folder(path: Path) -> RawSource:
    """
    A folder with ``observations.npy``, ``actions.npy``, ``rewards.npy``, ``terminations.npy``, ``truncations.npy``,
    optionally ``valid_next.npy``, ``action_masks.npy`` with ``next_action_masks.npy``, and ``metadata.json``; and either
    ``final_rows.npy`` and ``final_observations.npy`` (:class:`FollowingObservations`) or ``next_observations.npy``. Only the
    metadata are read.

    :raises DatasetError: if the metadata are not a JSON object
    """
    metadata_file = path / _METADATA
    if _is_there(metadata_file):
        _own_file(metadata_file)
        text = metadata_file.read_text(encoding="utf-8", errors="replace")
    else:
        text = "{}"
    metadata = collect_metadata(path.name, {"metadata": text})

    def build(info: DatasetInfo) -> OfflineDataset:
        _refuse_holes(path)
        checked = check_mapped(_map(path, info), info)  # its errors name rows, so they come first
        verify_checksums(path)
        return checked

    return raw_from_metadata(path.name, dict, metadata, build=build)


def _refuse_holes(path: Path) -> None:
    """Of a sparse file any size costs nothing, until training copies its rows."""
    for file in path.glob("*.npy"):
        if is_regular(file):
            try:
                check_expansion(str(file), file.stat().st_size, bytes_on_disk(file))
            except FileRefused as error:
                raise DatasetError(str(error)) from error


def _map(path: Path, info: DatasetInfo) -> OfflineDataset:
    columns = {name: _load(path, name) for name in _COLUMNS if name != "valid_next"}
    n = len(columns["rewards"])
    columns["valid_next"] = (
        _load(path, "valid_next") if _is_there(path / "valid_next.npy") else np.broadcast_to(np.True_, (n,))
    )
    for name in MASK_NAMES:
        if _is_there(path / f"{name}.npy"):
            columns[name] = _load(path, name)
    if _is_there(path / "next_observations.npy"):
        columns["next_observations"] = _load(path, "next_observations")
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1 or n == 0:
        raise DatasetError(f"{path}: the arrays need one entry a row, and at least one row; their lengths are {lengths}.")
    if "next_observations" in columns:
        return OfflineDataset(info, **columns)
    following: Any = _following(path, columns["observations"])
    return OfflineDataset(info, next_observations=following, **columns)


def _following(path: Path, observations: np.ndarray) -> FollowingObservations:
    if not _is_there(path / "final_rows.npy"):
        raise DatasetError(
            f"{path}: there is neither next_observations.npy nor final_rows.npy with final_observations.npy (the next "
            "observations of rows that are not followed by them). Write the folder by sb3_offline.datasets.MappedWriter."
        )
    rows, final = np.array(_load(path, "final_rows")), _load(path, "final_observations")
    ordered = rows.ndim == 1 and rows.dtype == np.int64 and len(rows) > 0 and bool((np.diff(rows) > 0).all())
    last, shape, dtype = len(observations) - 1, (len(rows), *observations.shape[1:]), observations.dtype
    if not ordered or rows[0] < 0 or rows[-1] != last or final.shape != shape or final.dtype != dtype:
        raise DatasetError(
            f"{path}: final_rows must be increasing int64 that end with the last row, {last}, and final_observations "
            f"{dtype} of shape {shape}; found {rows.dtype} {rows.shape} and {final.dtype} {final.shape}. "
            "Write them by sb3_offline.datasets.MappedWriter."
        )
    return FollowingObservations(observations, rows, final)


def _load(path: Path, name: str) -> np.ndarray:
    file = path / f"{name}.npy"
    if _is_there(file):
        _own_file(file)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: {name}.npy is missing.") from error
    except Exception as error:  # a damaged header, which is Python's text, raises any kind
        raise DatasetError(f"{file}: not a .npy file of numbers, or damaged or cut short ({error}).") from error
    if array.ndim == 0 or (array.dtype.names is None and array.dtype.kind not in "biuf"):
        raise DatasetError(f"{file}: {array.dtype} of shape {array.shape}, not numbers with one entry a row.")
    return array


def _is_there(file: Path) -> bool:
    """Also a link that leads nowhere."""
    return file.exists() or file.is_symlink()


def _own_file(file: Path) -> None:
    """
    :raises DatasetError: if it is a pipe or a device, which never end, or a link to what is not in the folder
    """
    if not is_regular(file):
        raise DatasetError(f"{file}: this is a device, a pipe or a broken link, not a file.")
    if leads_out(file, file.parent):
        raise DatasetError(
            f"{file} is a link to {file.resolve()}. The folder must hold its own data: cp -L copies them into it."
        )


class MappedWriter:
    """
    Write a folder for :func:`open_folder` block by block; no more than a block is held.

    Used as a context manager; the folder is complete when it ends without an error.

    :param folder: where to; made if it is missing
    :param info: spaces to check against; its task, reference scores and card go into ``metadata.json``
    :param origin: what the rows are made of. If it is given, what is written stays when writing is interrupted, and a
        writer of the same origin goes on after its first ``n_rows`` rows
    :raises DatasetError: if the folder holds data already, or a block does not fit
    """

    def __init__(self, folder: str | Path, info: DatasetInfo, origin: str | None = None):
        self.folder, self.info = Path(folder), info
        if is_folder(self.folder):
            raise DatasetError(f"{self.folder} holds data already: take another name, or delete it.")
        self.n_rows = 0
        self._columns: dict[str, _Column] = {}
        self._origin = origin
        self._last: np.ndarray | None = None  # next observation of the last row so far, (1, *obs_shape)
        self._made = not self.folder.exists()
        with named_target(self.folder), self._discarded_on_error():
            self.folder.mkdir(parents=True, exist_ok=True)
            written = None if origin is None else read_progress(self.folder, origin)
            layouts: dict[str, Layout | None] = dict.fromkeys((*_COLUMNS, "final_rows", "final_observations"))
            for name, layout in (layouts | ({} if written is None else written.columns)).items():
                self._columns[name] = _Column(self.folder / f"{name}.npy.part", layout)
            if written is not None:
                self.n_rows, self._last = written.n_rows, written.last

    def append(self, block: Mapping[str, Any]) -> None:
        """
        Add rows, in the order of time.

        :param block: arrays as :func:`~sb3_offline.load_dataset` takes them, ``next_observations`` among them
        :raises DatasetError: naming the key, the row and the remedy
        """
        if "next_observations" not in block:
            raise DatasetError("MappedWriter needs next_observations: a block does not know the row that follows it.")
        data = build_dataset(block, self.info)
        masks = [name for name in MASK_NAMES if name in data.array_names]
        if self.n_rows and bool(masks) != (MASK_NAMES[0] in self._columns):
            raise DatasetError("MappedWriter: only some blocks have action_masks: give them to all, or to none.")
        for name in masks:
            if name not in self._columns:
                self._columns[name] = _Column(self.folder / f"{name}.npy.part")
        for name in (*_COLUMNS, *masks):
            self._columns[name].append(getattr(data, name))
        following = np.ascontiguousarray(data.next_observations)
        if self._last is not None and not _same_bits(self._last, data.observations[:1])[0]:
            self._final(np.array([self.n_rows - 1]), self._last)
        rows = np.flatnonzero(~_same_bits(following[:-1], data.observations[1:]))
        self._final(self.n_rows + rows, following[rows])
        self._last = following[-1:].copy()
        self.n_rows += len(data)

    def _final(self, rows: np.ndarray, observations: np.ndarray) -> None:
        self._columns["final_rows"].append(rows.astype(np.int64))
        self._columns["final_observations"].append(observations)

    def checkpoint(self) -> None:
        """Note what is on the disk, for a writer of the same origin to go on from here."""
        for column in self._columns.values():
            column.file.flush()
        if self._origin is not None and self._last is not None:
            columns = {name: column.layout() for name, column in self._columns.items()}
            write_progress(self.folder, Progress(self._origin, self.n_rows, columns, self._last))

    def close(self) -> None:
        """
        Finish the files.

        :raises DatasetError: if no row was written
        """
        if self._last is None:
            self._discard()
            raise DatasetError(f"{self.folder}: no rows were written.")
        self._final(np.array([self.n_rows - 1]), self._last)
        metadata = json.dumps(self.info.metadata(), default=str).encode()
        with self._discarded_on_error():
            for column in self._columns.values():
                column.finish()
            write_atomically(self.folder / _METADATA, lambda file: file.write(metadata))
            write_checksums(self.folder, {column.path.with_suffix("").stem: column.path for column in self._columns.values()})
        clear_progress(self.folder)
        for column in reversed(self._columns.values()):  # observations.npy, which marks the folder, comes last
            column.path.replace(column.path.with_suffix(""))

    def __enter__(self) -> MappedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif self._origin is None:
            self._discard()
        else:
            for column in self._columns.values():
                column.file.close()

    @contextmanager
    def _discarded_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        for column in self._columns.values():
            column.discard()
        if self._made:
            with suppress(OSError):  # somebody else has put something there
                self.folder.rmdir()


def save_mapped(dataset: OfflineDataset, folder: str | Path) -> None:
    """
    Write a data set as a folder that :func:`~sb3_offline.load_dataset` maps into memory.

    :raises DatasetError: if the folder holds data already
    :raises OSError: if it cannot be written, naming it and the remedy
    """
    with named_target(folder), MappedWriter(folder, dataset.info) as writer:
        for rows in blocks_of(dataset):
            writer.append(dataset.arrays(rows))


class _Column:
    """A .npy file that grows; its header is written again when its length is known."""

    def __init__(self, path: Path, written: Layout | None = None):
        self.path = path
        self.file: IO[bytes] = path.open("wb" if written is None else "r+b")
        self.shape: tuple[int, ...] = ()
        self.descr: Any = None
        if written is not None and written.shape:
            self.shape, self.descr = written.shape, written.descr
            self.file.truncate(written.size)
            self.file.seek(written.size)

    def layout(self) -> Layout:
        return Layout(self.shape, self.descr, self.file.tell())

    def append(self, values: np.ndarray) -> None:
        if self.descr is None:
            self.shape, self.descr = (0, *values.shape[1:]), np.lib.format.dtype_to_descr(values.dtype)
            self._write_header()
        self.file.write(np.ascontiguousarray(values).data)
        self.shape = (self.shape[0] + len(values), *self.shape[1:])

    def _write_header(self) -> None:
        # numpy pads the header so that it keeps its length as the first axis grows
        np.lib.format.write_array_header_1_0(self.file, {"descr": self.descr, "fortran_order": False, "shape": self.shape})

    def finish(self) -> None:
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def discard(self) -> None:
        with suppress(OSError):  # of a full disk, when what is left in memory cannot be written
            self.file.close()
        self.path.unlink()


def _same_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) whether rows are equal to the bit, signs of zero included."""
    shape = (len(one), one.dtype.itemsize * int(np.prod(one.shape[1:])))
    a, b = (np.frombuffer(np.ascontiguousarray(values).data, np.uint8).reshape(shape) for values in (one, other))
    return (a == b).all(axis=1)
