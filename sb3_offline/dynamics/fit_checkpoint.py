"""A fit of the dynamics that was interrupted goes on where it was, epoch by epoch."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch as th

from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.checksum import read_checked, write_checked
from sb3_offline.files.optimizer_state import checked_state
from sb3_offline.files.tensors import same_kind
from sb3_offline.training.interrupt import Interrupt
from sb3_offline.training.rng import checked_position

MAX_OVERHEAD = 0.05  # share of the fit's time that may go into writing

_NOT_KEPT = "The fit of the dynamics was interrupted. It is not kept, which needs dynamics_cache=True and a seed."


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

    def begin(
        self,
        model: EnsembleDynamics,
        optimizer: th.optim.Optimizer,
        generator: th.Generator,
        snapshots: Callable[[], list[th.Tensor]],
    ) -> tuple[int, int]:
        """
        Restore what an earlier, interrupted fit left, if there is such a file, and it is whole and of this very fit: its
        generator stood where this one stands.

        :param snapshots: the tensors that keep the best epoch
        :return: epochs done, and how many of them without improvement
        """
        self._parts = model, optimizer, generator, snapshots
        self._start = generator.get_state()
        if self.path is None or not os.path.lexists(self.path):  # never raises, of a closed folder neither
            return 0, 0
        try:
            return self._continue(read_checked(self.path))
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError):
            generator.set_state(self._start)
            return 0, 0  # the fit starts anew, and replaces the file

    def _continue(self, state: dict[str, Any]) -> tuple[int, int]:
        """Everything is looked at before anything is put in place."""
        _, optimizer, generator, _ = self._parts
        tensors, epochs, stale = self._tensors(), state["epoch"], state["stale"]
        if not th.equal(state["start"], self._start):
            return 0, 0
        if not all(type(count) is int and count >= 0 for count in (epochs, stale)):
            raise ValueError(f"{self.path} holds no counts of epochs")
        if len(state["tensors"]) != len(tensors) or not all(map(same_kind, state["tensors"], tensors)):
            raise ValueError(f"{self.path} is of a model of other sizes")
        moments = checked_state(optimizer, state["optimizer"], str(self.path))
        generator.set_state(checked_position(state["generator"]))  # raises unless it is one
        optimizer.load_state_dict(moments)
        with th.no_grad():
            for tensor, value in zip(tensors, state["tensors"], strict=True):
                tensor.copy_(value)
        return epochs, stale

    def after_epoch(self, epoch: int, stale: int) -> None:
        """
        :raises KeyboardInterrupt: if the user wants to stop, once the file is written
        """
        before = time.perf_counter()
        if self.path is not None and (self.interrupt or before >= self._next_write):
            content = self._state() | {"epoch": epoch, "stale": stale}
            try:
                write_atomically(self.path, lambda file: write_checked(file, content))
            except OSError as error:
                warnings.warn(f"The fit of the dynamics goes on, and is not kept: {error}", stacklevel=2)
                self.path = None
            after = time.perf_counter()
            self._next_write = after + (after - before) / MAX_OVERHEAD
        if self.interrupt:
            kept = f"The fit of the dynamics was interrupted after epoch {epoch}, which {self.path} keeps: the same program, "
            self.interrupt.stop(_NOT_KEPT if self.path is None else kept + "run again, goes on there.")

    def complete(self) -> None:
        """
        The fit is over, and kept elsewhere: nothing is left to go on from.

        :raises KeyboardInterrupt: if the user wanted to stop in its last moments
        """
        if self.path is not None:
            with suppress(OSError):  # of a folder that is read-only by now
                self.path.unlink(missing_ok=True)
        if self.interrupt:
            self.interrupt.stop(_NOT_KEPT if self.path is None else "Interrupted when the fit of the dynamics was complete.")

    def _state(self) -> dict[str, Any]:
        _, optimizer, generator, _ = self._parts
        return {
            "start": self._start,
            "tensors": self._tensors(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
        }

    def _tensors(self) -> list[th.Tensor]:
        model, _, _, snapshots = self._parts
        return [*(parameter.detach() for parameter in model.member_parameters()), *snapshots()]
