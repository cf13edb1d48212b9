"""Files that are written whole or not at all."""

from __future__ import annotations

import ctypes
import glob
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sb3_offline.files.abandoned import lock, owned, remove_abandoned

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
    What killed processes left of such drafts is removed.

    :raises OSError: as :func:`named_target`
    """
    path = Path(path)
    with named_target(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.draft-"
        remove_abandoned(path.parent.glob(f"{glob.escape(prefix)}*"))
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder, owned(Path(folder)):
            draft = Path(folder) / path.name
            yield draft
            put_in_place(draft, path)


def put_in_place(draft: Path, path: Path) -> None:
    """
    Move a draft to its place. Where a folder replaces a folder, both change places in one step if the system can do that; the
    old one is then where the draft was.
    """
    if not (draft.is_dir() and path.is_dir()):
        draft.replace(path)
    elif not _exchange(draft, path):
        aside = draft.with_name(f"{draft.name}.replaced")
        path.replace(aside)
        try:
            draft.replace(path)
        except BaseException:
            aside.replace(path)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Linux's renameat2(RENAME_EXCHANGE); False where there is none."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """
    Write a file beside its place, make sure that it is on the disk, and then move it there in one step. Whatever goes wrong
    before (a full disk, a kill), the file that was there before stays as it was; a failed write leaves nothing behind, a
    killed one at most a ``.partial`` file, which the next write to this path removes.

    :param write: writes the content to the binary file that it is given
    :raises OSError: if the folder cannot be written, or the disk is full, naming the file
    """
    path = Path(path)
    with named_target(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent.glob(f"{glob.escape(path.name)}????????.partial"))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
        try:
            with os.fdopen(handle, "w+b") as file:
                lock(file)
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
