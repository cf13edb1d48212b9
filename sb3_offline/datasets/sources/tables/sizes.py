"""Tables that take far more memory than they have bytes on disk: refused before their rows are read."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.files.archives import FileRefused, check_expansion
from sb3_offline.files.regular import bytes_on_disk

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 2**20


def check_table_size(name: str, files: Sequence[Path], dataset: Any) -> None:
    """
    A column of equal values costs nothing on disk, however its format says so: its rows are counted, too.

    :param dataset: pyarrow's, of these files, which are Parquet or Arrow
    :raises DatasetError: for a bomb
    """
    unpacked = 0
    for fragment in dataset.get_fragments():
        groups = getattr(fragment, "row_groups", None) or ()
        unpacked += max(fragment.count_rows() * _width(dataset.schema), sum(group.total_byte_size for group in groups))
    _compare(name, unpacked, sum(map(bytes_on_disk, files)))


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
