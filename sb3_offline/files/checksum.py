"""Tensors on disk with a checksum: a torn or altered file is recognised, and reading runs no code."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, BinaryIO

import torch as th

from sb3_offline.files.archives import FileRefused, read_tensors
from sb3_offline.files.regular import read_regular

MAGIC = b"sb3off\x01\n"
_LABEL = 64  # bytes of free text between MAGIC and the checksum
_DIGEST = len(MAGIC) + _LABEL  # where the checksum begins
_BODY = _DIGEST + hashlib.sha256().digest_size


class DamagedFileError(FileRefused):
    """The file is cut off, altered, or none of ours."""


class _HashingWriter:
    """Passes bytes on to a file, and to a hash."""

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        self.file, self.digest = file, digest
        self.error: OSError | None = None  # of which torch only says that a position is unexpected

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_checked(file: BinaryIO, content: dict[str, Any], label: str = "") -> None:
    """
    :param file: seekable, empty
    :param content: tensors, numbers and text, and lists and dicts of them
    :param label: at most 64 ASCII characters that :func:`read_label` reads without the rest
    :raises OSError: if the disk is full
    """
    tag = label.encode("ascii").ljust(_LABEL)
    digest = hashlib.sha256(tag)
    file.write(MAGIC + tag + digest.digest())  # the true digest follows below
    writer = _HashingWriter(file, digest)
    try:
        th.save(content, writer)  # type: ignore[arg-type]  # all that it calls is there
    except RuntimeError as error:
        raise writer.error or error from error
    file.seek(_DIGEST)
    file.write(digest.digest())
    file.seek(0, io.SEEK_END)


def read_label(path: Path) -> str | None:
    """The label of a file of :func:`write_checked`; None for any other file, and for one that cannot be read."""
    try:
        head = read_regular(path, _BODY)
    except (OSError, FileRefused):
        return None
    if len(head) < _BODY or not head.startswith(MAGIC):
        return None
    return head[len(MAGIC) : _DIGEST].decode("ascii", errors="replace").rstrip()


def read_checked(path: Path) -> dict[str, Any]:
    """
    :return: the content of a file of :func:`write_checked`, its tensors on the CPU
    :raises DamagedFileError: if the checksum does not fit, or the content is not of :func:`write_checked`
    """
    data = read_regular(path)
    if len(data) < _BODY or not data.startswith(MAGIC):
        raise DamagedFileError(f"{path} is no checkpoint, or its beginning is damaged")
    tag, expected, body = data[len(MAGIC) : _DIGEST], data[_DIGEST:_BODY], data[_BODY:]
    digest = hashlib.sha256(tag)
    digest.update(body)
    if digest.digest() != expected:
        raise DamagedFileError(f"{path} is damaged: its checksum does not fit (it may have been cut off)")
    try:
        content: dict[str, Any] = read_tensors(body, str(path), limits=(2**16, 1))  # torch does not compress
    except FileRefused as error:
        raise DamagedFileError(f"{path} is not ours: it holds more than tensors, numbers and text ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} is not ours: it holds no parts by name")
    return content
