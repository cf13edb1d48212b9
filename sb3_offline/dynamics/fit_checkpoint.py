"""A fit of the dynamics that was interrupted goes on where it was, epoch by epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch as th

from sb3_offline.common.atomic import write_atomically
from sb3_offline.common.checksum import DamagedFileError, read_checked, write_checked
from sb3_offline.common.interrupt import Interrupt

MAX_OVERHEAD = 0.05  # share of the fit's time that may go into writing

_NOT_KEPT = "The fit of the dynamics was interrupted; it is not kept, as that needs dynamics_cache=True and a seed."


class FitCheckpoint:
    """
    The state of a fit after an epoch, in one file that is replaced whole. Where epochs are short it is not written after
    each of them, so that writing costs at most 5% of the time; an interrupt always writes.

    :param path: the file; None keeps nothing
    :param interrupt: set when the user wants to stop; the fit then ends after the present epoch
    """

    def __init__(self, path: Path | None, interrupt: Interrupt) -> None:
        self.path, self.interrupt = path, interrupt
        self._next_write = 0.0

    def read(self, start: th.Tensor) -> dict[str, Any] | None:
        """
        What an earlier, interrupted fit left.

        :param start: state of the generator when the fit starts; a fit that started elsewhere is another fit
        :return: None if there is nothing, or it is damaged or of another fit
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            state = read_checked(self.path)
        except (DamagedFileError, OSError):
            return None  # the fit starts anew, and replaces the file
        return state if th.equal(state.pop("start"), start) else None

    def after_epoch(self, state: Callable[[], dict[str, Any]]) -> None:
        """
        :param state: gives what :meth:`read` shall return, and ``start``
        :raises KeyboardInterrupt: if the user wants to stop, once the file is written
        """
        before = time.perf_counter()
        if self.path is not None and (self.interrupt or before >= self._next_write):
            content = state()
            write_atomically(self.path, lambda file: write_checked(file, content))
            after = time.perf_counter()
            self._next_write = after + (after - before) / MAX_OVERHEAD
        if self.interrupt:
            self.interrupt.stop(
                _NOT_KEPT
                if self.path is None
                else f"The fit of the dynamics was interrupted after an epoch, which {self.path} keeps. Run the same "
                "program again: it continues there."
            )

    def remove(self) -> None:
        """The fit is complete, and kept elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
