"""Tables that take far more memory than they have bytes on disk: refused before their rows are read."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.tables.arrow_footer import unpacked_bytes, unpacked_stream_bytes
from sb3_offline.files.archives import FileRefused, check_expansion
from sb3_offline.files.regular import bytes_on_disk

if TYPE_CHECKING:
    import pyarrow as pa

#: Files of at most so many bytes are read once and kept until the data are built; larger ones are read again.
KEPT_BYTES = 2**28
_BLOCK = 2**20
#: Bytes of Parquet's types in memory; those of texts differ, and a fixed length is counted by the schema.
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "FIXED_LEN_BYTE_ARRAY": 1}


def are_kept(files: Sequence[str | Path]) -> bool:
    """Whether files are small enough to be read once only."""
    return sum(Path(file).stat().st_size for file in files) <= KEPT_BYTES


def check_table_size(name: str, files: Sequence[Path], dataset: Any) -> int:
    """
    A column of equal values costs nothing on disk, however its format says so: its rows are counted, too.

    :param dataset: pyarrow's, of these files, which are Parquet or Arrow
    :return: the bytes of a row
    :raises DatasetError: for a bomb, or a union: pyarrow ends the process where a damaged file takes another type for one
    """
    union = next((field for field in dataset.schema if _holds_union(field.type)), None)
    if union is not None:
        raise DatasetError(
            f"{name}: column {union.name!r} is of type {union.type}: the file is damaged, or leave the column out."
        )
    unpacked = n_rows = 0
    for fragment, file in zip(dataset.get_fragments(), files, strict=True):
        packed = _parquet_bytes(fragment, file) if hasattr(fragment, "row_groups") else unpacked_bytes(file)
        unpacked += max(fragment.count_rows() * _width(dataset.schema), packed)
        n_rows += fragment.count_rows()
    _compare(name, unpacked, sum(map(bytes_on_disk, files)))
    return unpacked // max(n_rows, 1)


def _holds_union(kind: pa.DataType) -> bool:
    import pyarrow as pa

    parts = (kind.field(number).type for number in range(kind.num_fields))
    return pa.types.is_union(kind) or any(map(_holds_union, parts))


def _parquet_bytes(fragment: Any, file: Path) -> int:
    """What the columns take when equal values, which Parquet writes once, are written out."""
    total = 0
    repeated: set[str] = set()  # columns of texts
    for group in map(fragment.metadata.row_group, range(fragment.metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            width = _WIDTHS.get(column.physical_type)
            if width is not None:
                total += column.num_values * width
                continue
            total += column.total_uncompressed_size
            if any("DICTIONARY" in encoding for encoding in column.encodings):
                repeated.add(column.path_in_schema)
    return total + sum(_text_bytes(file, name) for name in repeated)


def _text_bytes(file: Path, name: str) -> int:
    """Of all texts of a column, which is read as numbers of the distinct ones; none if it stays like that in memory."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    total, schema = 0, pq.read_schema(file)
    if name in schema.names and pa.types.is_dictionary(schema.field(name).type):
        return 0
    for batch in pq.ParquetFile(file, read_dictionary=[name]).iter_batches(columns=[name]):
        column = batch.column(0)
        while pa.types.is_nested(column.type):
            column = column.field(0) if pa.types.is_struct(column.type) else column.flatten()
        if pa.types.is_dictionary(column.type):
            total += pc.sum(pc.take(pc.binary_length(column.dictionary), column.indices)).as_py() or 0
    return total


def check_stream_size(name: str, files: Sequence[Path]) -> None:
    """
    :param files: streams of Arrow's batches
    :raises DatasetError: for a bomb
    """
    _compare(name, sum(map(unpacked_stream_bytes, files)), sum(map(bytes_on_disk, files)))


def check_gzip_size(file: Path) -> None:
    """
    Only unpacking tells how much there is; it ends where it is too much.

    :raises DatasetError: for a bomb
    """
    unpacked, on_disk = 0, bytes_on_disk(file)
    with gzip.open(file) as stream:
        while block := stream.read(_BLOCK):
            unpacked += len(block)
            _compare(str(file), unpacked, on_disk)


def _compare(name: str, unpacked: int, on_disk: int) -> None:
    try:
        check_expansion(name, unpacked, on_disk)
    except FileRefused as error:
        raise DatasetError(str(error)) from error


def _width(fields: Any) -> int:
    """Bytes that a row takes at least."""
    return sum(_width_of(field.type) for field in fields)


def _width_of(kind: pa.DataType) -> int:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return _width(kind)
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size * _width_of(kind.value_type)
    try:
        return max(kind.bit_width // 8, 1)
    except ValueError:  # of any length: an offset
        return 4
