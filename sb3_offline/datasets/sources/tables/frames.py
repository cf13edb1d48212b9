"""A table wherever it lies, as named columns that are read by blocks of rows. pyarrow reads every format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import blocks as row_blocks
from sb3_offline.datasets.mapped import rows_at_once
from sb3_offline.datasets.sources.files import TABLE_SUFFIXES, is_data_file, is_directory
from sb3_offline.datasets.sources.tables.delimited import open_delimited, refuse_twice
from sb3_offline.datasets.sources.tables.sizes import are_kept, check_table_size
from sb3_offline.files.kinds import true_kind
from sb3_offline.files.regular import leads_out

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

#: Where this package's own files hold their metadata and mapping, as JSON text.
METADATA_KEY = b"sb3_offline"

_IMAGE_ROWS = 256  # of videos, decoded at once

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv"}
_FRAMES = {("pandas", "DataFrame"), ("polars", "DataFrame"), ("polars", "LazyFrame"), ("pyarrow", "Table")}
_FRAMES |= {("pyarrow", "RecordBatch")}

is_table_file = is_data_file(*TABLE_SUFFIXES)


def is_frame(source: Any) -> bool:
    """Whether an object is a table in memory, without importing its library for it."""
    return any((cls.__module__.partition(".")[0], cls.__name__) in _FRAMES for cls in type(source).__mro__)


def is_table_folder(path: Path) -> bool:
    """Whether a folder, or the folders in it, hold tables."""
    return is_directory(path) and next(_files_in(path), None) is not None


def _files_in(folder: Path) -> Iterator[Path]:
    """The tables of a folder; as usual those of hidden folders and files are none of the data."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        if not hidden and is_table_file(path):
            if leads_out(path, folder):
                raise DatasetError(
                    f"{path} is a link to {path.resolve()}. The folder must hold its own data: copy them there."
                )
            yield path


def import_pyarrow(name: str) -> ModuleType:
    """:raises DatasetError: if it is not installed"""
    try:
        import pyarrow
    except ImportError as error:
        raise DatasetError(f'{name}: tables are read by pyarrow: pip install "sb3-offline[tables]".') from error
    return pyarrow


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Around whatever reads a table: pyarrow raises many kinds for damaged files."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        message, why = " ".join(str(error).split()), true_kind(Path(name), b"PAR1", b"ARROW1", b"\x1f\x8b")
        if why is None:
            why = (
                f"it may be damaged or cut short ({message})"
                if Path(name).exists()
                else f"pyarrow does not take it: {message}"
            )
        raise DatasetError(f"{name}: the table cannot be read; {why}.") from error


class Camera(Protocol):
    """Images by row, which lie elsewhere: found by two columns of numbers."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def found_by(self) -> tuple[str, str]: ...

    def frames(self, episodes: np.ndarray, times: np.ndarray) -> np.ndarray:
        """(n, \\*shape) uint8"""


class Frame:
    """
    Named columns of equally many rows. Fields of a struct column are columns of their own, ``position.x``.

    :param source: a path (file or folder), or a frame of pandas, polars or pyarrow
    :param cameras: columns of images that lie elsewhere, in videos
    :raises DatasetError: if it cannot be opened, or two columns have one name

    ``said`` tells how it was read, in words.
    """

    def __init__(self, source: Any, cameras: Sequence[Camera] = ()):
        self.own: Any = None if isinstance(source, (str, Path)) else source
        self.cameras = {camera.name: camera for camera in cameras}
        self.name = Path(source).name if self.own is None else f"{type(source).__module__.partition('.')[0]} table"
        self.path = str(source) if self.own is None else self.name  # what messages name
        import_pyarrow(self.path)
        with readable(self.path):
            self._dataset, self.said, self._row_bytes = (
                _from_path(Path(source)) if self.own is None else (_from_memory(source), [], 0)
            )
            self.facts = _facts_of(self._dataset.schema.metadata)
            self.schema: pa.Schema = _flat(self._dataset.schema.empty_table()).schema
        refuse_twice(self.schema.names, self.path)

    @property
    def names(self) -> list[str]:
        """Of all columns."""
        return [*self.schema.names, *self.cameras]

    @cached_property
    def kept(self) -> bool:
        """Whether the rows stay in memory between the survey and the reading."""
        parts = getattr(self._dataset, "children", [self._dataset])
        return are_kept([file for part in parts for file in getattr(part, "files", [])])

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """
        Some columns of all rows, in the order of the files; in one block if that is kept and without images of videos. No
        block is empty.
        """
        cameras = [self.cameras[name] for name in columns if name in self.cameras]
        if cameras:
            own = [name for name in columns if name not in self.cameras]
            for block in self.blocks(list(dict.fromkeys([*own, *cameras[0].found_by]))):
                for rows in row_blocks(len(block), _IMAGE_ROWS):
                    yield _with_images(block.slice(rows.start, rows.stop - rows.start), cameras).select(list(columns))
            return
        roots = [name for name in self._dataset.schema.names if any(c == name or c.startswith(f"{name}.") for c in columns)]
        with readable(self.path):
            if self.kept:
                kept = self._kept_table(tuple(roots))
                yield from [kept.select(list(columns))] if len(kept) else []
                return
            import pyarrow as pa

            size = rows_at_once(self._row_bytes)
            for batch in self._dataset.to_batches(columns=roots, batch_size=size, batch_readahead=2, fragment_readahead=1):
                if len(batch):
                    yield _flat(sound(pa.Table.from_batches([batch]))).select(list(columns))

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows at once."""
        import pyarrow as pa

        return pa.concat_tables(list(self.blocks(columns)))

    def forget(self) -> None:
        """Let go of rows that were kept."""
        self._tables = {}

    _tables: dict[tuple[str, ...], Any] = {}  # noqa: RUF012  # replaced, never changed in place

    def _kept_table(self, roots: tuple[str, ...]) -> pa.Table:
        for names, table in self._tables.items():
            if set(roots) <= set(names):
                return table
        table = _flat(sound(self._dataset.to_table(columns=list(roots))))
        self._tables = {**self._tables, roots: table}
        return table


def _with_images(block: pa.Table, cameras: Sequence[Camera]) -> pa.Table:
    import pyarrow as pa

    episodes, times = (block[name].to_numpy() for name in cameras[0].found_by)
    for camera in cameras:
        images = pa.FixedShapeTensorArray.from_numpy_ndarray(camera.frames(episodes, times))
        block = block.append_column(camera.name, images)
    return block


def _facts_of(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """``metadata`` and ``columns`` of a file of this package's own, empty of any other."""
    facts = json.loads((metadata or {}).get(METADATA_KEY, b"{}"))
    return facts if isinstance(facts, dict) else {}


def sound(table: pa.Table) -> pa.Table:
    """:raises pyarrow.ArrowInvalid: for lists or texts that lie outside their buffers: to read them would end the process"""
    table.validate(full=True)
    return table


def _flat(table: pa.Table) -> pa.Table:
    """Fields of structs as columns."""
    import pyarrow as pa

    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    for number, name in enumerate(table.column_names):
        table = table.set_column(number, name, _without_views(table.column(number)))
    return table


def _without_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts and categories as polars writes them to Arrow, in the form for which pyarrow has all that is asked here."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if not (pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type)):
        return column
    parts = [
        pa.DictionaryArray.from_arrays(part.indices, part.dictionary.cast(pa.large_string()), ordered=kind.ordered)
        for part in column.chunks
    ]
    return pa.chunked_array(parts, pa.dictionary(kind.index_type, pa.large_string(), kind.ordered))


def _from_memory(source: Any) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as ds

    library = type(source).__module__.partition(".")[0]
    if library == "pandas":
        named = [name for name in source.index.names if name is not None]
        source = source.reset_index(level=named) if named else source
        refuse_twice(list(map(str, source.columns)), "pandas table")
        source = pa.Table.from_pandas(source, preserve_index=False)
    elif library == "polars":
        source = (source.collect() if type(source).__name__ == "LazyFrame" else source).to_arrow()
    elif isinstance(source, pa.RecordBatch):
        source = pa.Table.from_batches([source])
    return ds.dataset(source)


def _from_path(path: Path) -> tuple[Any, list[str], int]:
    """pyarrow's data set, how it was read in words, and the bytes of a row in memory, 0 where that is not known."""
    import pyarrow.dataset as ds

    files = list(_files_in(path)) if path.is_dir() else [path]
    kinds = {_format_of(file) for file in files}
    if len(kinds) > 1:
        raise DatasetError(f"{path} holds tables of several formats, {', '.join(sorted(kinds))}: give one of them.")
    (kind,) = kinds
    if kind == "csv":
        return *open_delimited(path, files), 0
    options = {"partitioning": "hive", "partition_base_dir": str(path)} if path.is_dir() else {}
    # without the buffer a file is not read ahead as a whole
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True, pre_buffer=False, use_buffered_stream=True)
    form = ds.ParquetFileFormat(default_fragment_scan_options=checked) if kind == "parquet" else kind
    dataset = ds.dataset([str(file) for file in files], format=form, **options)
    first = set(next(dataset.get_fragments()).physical_schema.names)
    for fragment, file in zip(dataset.get_fragments(), files, strict=True):
        lacking = first ^ set(fragment.physical_schema.names)  # would be read as missing values
        if lacking:
            raise DatasetError(f"{path}: {file.name} and {files[0].name} differ in the columns {sorted(lacking)}.")
    return dataset, [], check_table_size(str(path), files, dataset)


def _format_of(file: Path) -> str:
    return next((kind for suffix, kind in _FORMATS.items() if file.name.lower().endswith(suffix)), "ipc")
