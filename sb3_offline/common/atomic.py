"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """
    Write a file beside its place, make sure that it is on the disk, and then move it there in one step. Whatever goes wrong
    before (a full disk, a kill), the file that was there before stays as it was; a failed write leaves nothing behind, a
    killed one at most a ``.partial`` file.

    :param write: writes the content to the binary file that it is given
    :raises OSError: if the folder cannot be written, or the disk is full, naming the file
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
        try:
            with os.fdopen(handle, "w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            _allow_as_usual(temporary)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise type(error)(
            error.errno, f"{path} could not be written ({error.strerror}); what was there before is unchanged"
        ) from error
    _sync_folder(path.parent)


def _allow_as_usual(path: str) -> None:
    """Temporary files are private; give the permissions that any new file gets."""
    mask = os.umask(0)
    os.umask(mask)
    Path(path).chmod(0o666 & ~mask)


def _sync_folder(folder: Path) -> None:
    """The move itself survives a loss of power; not every system can do this."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse
        pass
    finally:
        os.close(handle)
