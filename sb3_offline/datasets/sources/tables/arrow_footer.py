"""
What an Arrow file's buffers unpack to, read from its footer and the heads of its batches: pyarrow tells only once it has
unpacked them. The layout is that of Arrow's ``File.fbs`` and ``Message.fbs``, in flatbuffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sb3_offline.datasets.errors import DatasetError

_MAGIC = b"ARROW1"
_BATCH, _DICTIONARY = 3, 2  # kinds of a message's header


class _Table:
    """A flatbuffers table: fields by their number, each at an offset that the table's own index (vtable) gives."""

    def __init__(self, content: bytes, start: int):
        self.content, self.start = content, start

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, struct.unpack_from("<I", content, 0)[0])

    def place(self, field: int) -> int | None:
        """Where a field lies; None if it is left out."""
        index = self.start - struct.unpack_from("<i", self.content, self.start)[0]
        entry = 4 + 2 * field
        if entry >= struct.unpack_from("<H", self.content, index)[0]:
            return None
        offset = struct.unpack_from("<H", self.content, index + entry)[0]
        return self.start + offset if offset else None

    def number(self, field: int) -> int:
        """One byte."""
        place = self.place(field)
        return 0 if place is None else self.content[place]

    def table(self, field: int) -> _Table:
        """The table that a field points to."""
        place = self.place(field)
        if place is None:
            raise ValueError("a table is missing")
        return _Table(self.content, place + struct.unpack_from("<I", self.content, place)[0])

    def structs(self, field: int, layout: str) -> Iterator[tuple[int, ...]]:
        """The structs of a vector."""
        place = self.place(field)
        if place is None:
            return
        start = place + struct.unpack_from("<I", self.content, place)[0]
        count, size = struct.unpack_from("<I", self.content, start)[0], struct.calcsize(layout)
        if count * size > len(self.content):
            raise ValueError("a vector is longer than its file")
        for index in range(count):
            yield struct.unpack_from(layout, self.content, start + 4 + index * size)


def unpacked_bytes(path: Path) -> int:
    """
    :param path: of an Arrow file (Feather 2)
    :return: bytes of all buffers of all its batches and dictionaries in memory
    :raises DatasetError: if the file is damaged
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(end - 10)
            length, magic = struct.unpack("<i6s", file.read(10))
            if magic != _MAGIC or not 0 < length < end:
                raise ValueError("it has no footer")
            file.seek(end - 10 - length)
            footer = _Table.root(file.read(length))
            total = 0
            for field in (2, 3):  # dictionaries, batches
                for start, head, _ in footer.structs(field, "<qi4xq"):
                    total += _unpacked(file, start, head)
            return total
    except (ValueError, struct.error, IndexError, OSError) as error:
        raise DatasetError(f"{path} is no Arrow file, or it is damaged or cut short ({error}).") from error


def _unpacked(file: BinaryIO, start: int, head: int) -> int:
    """Of one message: each buffer's own length, or where it is packed the length that stands in front of it."""
    file.seek(start)
    content = file.read(head)
    message = _Table.root(content[8 if content[:4] == b"\xff\xff\xff\xff" else 4 :])  # behind its length
    batch = message.table(2)
    if message.number(1) == _DICTIONARY:
        batch = batch.table(1)
    elif message.number(1) != _BATCH:
        raise ValueError("a batch is none")
    packed = batch.place(3) is not None
    total = 0
    for offset, length in batch.structs(2, "<qq"):
        if packed and length >= 8:
            file.seek(start + head + offset)
            length = max(struct.unpack("<q", file.read(8))[0], length - 8)  # -1: as it is
        total += length
    return total
