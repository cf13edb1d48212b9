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
_CONTINUED = b"\xff" * 4  # in front of a message's length, in all but the oldest files
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # kinds of a message's header


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

    def long(self, field: int) -> int:
        """Eight bytes, not negative."""
        place = self.place(field)
        found: int = 0 if place is None else struct.unpack_from("<q", self.content, place)[0]
        if found < 0:
            raise ValueError("a length is negative")
        return found

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
        raise DatasetError(f"{path} is no Arrow file, or may be damaged or cut short ({error}).") from error


def unpacked_stream_bytes(path: Path) -> int:
    """
    :param path: of a stream of Arrow's batches in a file, which has no footer
    :return: as :func:`unpacked_bytes`
    :raises DatasetError: if the file is damaged
    """
    try:
        with path.open("rb") as file:
            total, start, end = 0, 0, file.seek(0, 2)
            while start < end:
                file.seek(start)
                mark = file.read(4)
                head = 8 + struct.unpack("<i", file.read(4))[0] if mark == _CONTINUED else 4 + struct.unpack("<i", mark)[0]
                if head <= 8:  # the end of the stream
                    break
                total += _unpacked(file, start, head)
                start += head + _message(file, start, head).long(3)
                if start > end:
                    raise ValueError("a message is longer than its file")
            return total
    except (ValueError, struct.error, IndexError, OSError) as error:
        raise DatasetError(f"{path} is no stream of Arrow's, or may be damaged or cut short ({error}).") from error


def _message(file: BinaryIO, start: int, head: int) -> _Table:
    file.seek(start)
    content = file.read(head)
    return _Table.root(content[8 if content[:4] == _CONTINUED else 4 :])  # behind its length


def _unpacked(file: BinaryIO, start: int, head: int) -> int:
    """Of one message: each buffer's own length, or where it is packed the length that stands in front of it."""
    message = _message(file, start, head)
    if message.number(1) == _SCHEMA:
        return 0
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
