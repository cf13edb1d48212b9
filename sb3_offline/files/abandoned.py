"""
What killed processes left half-written, and how it is known to be left: its writer held a lock, which the system takes away
when the process ends, however it ends.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing removed
    fcntl: Any = None  # type: ignore[no-redef]

_LOCK = "lock"  # a file in a folder that is being written
_YOUNG = 10.0  # seconds in which a file may have been made, and not locked yet


def lock(file: IO[Any]) -> bool:
    """Claim a file for as long as it is open; False if another process has it, or there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is taken, or the file system has no locks
        return False
    return True


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Inside, a folder is known to have a living owner."""
    with (folder / _LOCK).open("wb") as file:
        lock(file)
        yield


def remove_abandoned(drafts: Iterable[Path]) -> None:
    """
    :param drafts: files and folders of names that only :mod:`sb3_offline.files.atomic` gives; those whose writer lives stay
    """
    for draft in list(drafts):
        with suppress(OSError):
            held = draft / _LOCK if draft.is_dir() else draft
            if draft.is_symlink() or time.time() - held.stat().st_mtime < _YOUNG:
                continue
            with held.open("r+b") as file:
                if lock(file):
                    shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() else draft.unlink()
