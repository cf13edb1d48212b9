"""Files that are files: a pipe or a device of the same name would keep its reader waiting, or never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from sb3_offline.files.refusal import FileRefused


def is_regular(path: Path) -> bool:
    """Whether there is a file of this name, and no folder, pipe or device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a null character in the name
        return False


def read_regular(path: Path, most: int = -1) -> bytes:
    """
    :param most: bytes to read from the beginning; all, if negative
    :return: the content of a file
    :raises FileRefused: if it is a pipe or a device, which are not opened
    :raises OSError: if there is none, or it cannot be read
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise FileRefused(f"{path} is a device or a pipe, not a file.")
    # between the look and the opening it may be exchanged: O_NONBLOCK does not wait for a pipe's other end
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        return file.read(most)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is a link out of it; those of Hugging Face's cache, from snapshots to blobs, are none."""
    own = [folder.resolve()]
    own += [parent.parent / "blobs" for parent in own[0].parents if parent.name == "snapshots"]
    return not any(path.resolve().is_relative_to(place) for place in own)


def bytes_on_disk(path: Path) -> int:
    """What a file takes there: the holes of a sparse file cost nothing, and are read as zeros."""
    found = path.stat()
    blocks: int = getattr(found, "st_blocks", 0)  # not everywhere told, or 0 where it is not known
    return min(found.st_size, 512 * blocks) if blocks else found.st_size
