"""CRC-32 of the arrays of a memory-mapped folder, which are plain .npy files: a flipped bit is a number like any other."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.regular import read_regular
from sb3_offline.files.structure import read_json

_CHECKSUMS = "checksums.json"
_BLOCK = 2**22  # bytes read at once


def write_checksums(folder: Path, columns: Mapping[str, Path]) -> None:
    """
    :param columns: the finished files, by the names that they are about to get
    """
    text = json.dumps({name: _checksum(path) for name, path in columns.items()}).encode()
    write_atomically(folder / _CHECKSUMS, lambda file: file.write(text))


def verify_checksums(folder: Path) -> None:
    """
    Compare all arrays with what was written, if that is known; reads each file once.

    :raises DatasetError: naming the file that has changed
    """
    path = folder / _CHECKSUMS
    if not path.exists():  # of an earlier version, or written by hand
        return
    try:
        known = dict(read_json(read_regular(path), str(path)))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise DatasetError(f"{path} is damaged: {error}. Copy the folder again.") from error
    for name, expected in known.items():
        file = folder / f"{Path(str(name)).name}.npy"
        if file.is_file() and _checksum(file) != expected:
            raise DatasetError(
                f"{file} is damaged: its checksum does not fit. Copy the folder again; if you changed the file yourself, "
                f"delete {path}."
            )


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total = zlib.crc32(block, total)
    return total
