"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_REMEDIES = {
    FileExistsError: "a part of the path is a file: take another path",
    NotADirectoryError: "a part of the path is a file: take another path",
    IsADirectoryError: "it is a folder: name a file",
    PermissionError: "you may not write there: take another path",
}


@contextmanager
def named_target(path: str | Path) -> Iterator[None]:
    """
    Around whatever writes to a path and leaves it as it was if that fails.

    :raises OSError: of the kind that the system raised, naming the path and the remedy
    """
    try:
        yield
    except OSError as raised:
        error = raised.__cause__ if isinstance(raised.__cause__, OSError) else raised  # the system's, under a target's within
        why = f"{path} could not be written ({error.strerror or error}); what was there before is unchanged"
        named = type(error)(f"{why}; {_REMEDIES.get(type(error), 'free some space, or take another path')}.")
        named.errno = error.errno
        raise named from error


@contextmanager
def draft_of(path: str | Path) -> Iterator[Path]:
    """
    A path of the same name, for what writes a file or a folder by itself; it takes the place of ``path`` once it is whole.

    :raises OSError: as :func:`named_target`
    """
    path = Path(path)
    with named_target(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}") as folder:
            draft = Path(folder) / path.name
            yield draft
            if draft.is_dir() and path.is_dir():
                shutil.rmtree(path)
            draft.replace(path)


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """
    Write a file beside its place, make sure that it is on the disk, and then move it there in one step. Whatever goes wrong
    before (a full disk, a kill), the file that was there before stays as it was; a failed write leaves nothing behind, a
    killed one at most a ``.partial`` file.

    :param write: writes the content to the binary file that it is given
    :raises OSError: if the folder cannot be written, or the disk is full, naming the file
    """
    path = Path(path)
    with named_target(path):
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
