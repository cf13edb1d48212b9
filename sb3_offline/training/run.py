"""One call of ``learn``: its checkpoints, its health, and its end by Ctrl-C."""

from __future__ import annotations

import math
import time
import uuid
import warnings
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, ProgressBarCallback

from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.sources.npz import npz_keys, read_npz
from sb3_offline.execution import ranks
from sb3_offline.execution.slots import slots_of
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.checksum import write_checked
from sb3_offline.files.regular import is_regular
from sb3_offline.training.callback_state import counts_of, restore_counts
from sb3_offline.training.callback_walk import walk
from sb3_offline.training.health import CHECK_FREQ, TrainingDivergedError, non_finite_parameter
from sb3_offline.training.interrupt import deferred_interrupts
from sb3_offline.training.patient_output import make_patient
from sb3_offline.training.resume import Continuation, Label, describe, forget_older, sibling
from sb3_offline.training.state_checks import put_in_place
from sb3_offline.training.trained import Trained
from sb3_offline.training.training_state import capture, restore

INTERRUPTED_FOLDER = Path("interrupted")  # where Ctrl-C saves if no callback names a folder


#: Checkpoints of one model are one run's, however often it learns: a folder keeps the last two of them.
_IDENTITIES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class Run:
    """
    Entered when training starts. A checkpoint's ``.resume`` file is written at the end of the gradient step in which the
    model was saved, when all callbacks have had their turn: between two steps there is no half-done work to remember.

    :param continuation: the checkpoint that this run goes on from
    """

    def __init__(
        self, model: Trained, dataset: OfflineDataset, callback: BaseCallback, continuation: Continuation | None
    ) -> None:
        self.model, self.dataset, self.callback, self.continuation = model, dataset, callback, continuation
        about: dict[str, Any] = {} if continuation is None else continuation.about
        self.identity: str = about.get("run") or _IDENTITIES.get(model) or uuid.uuid4().hex
        _IDENTITIES[model] = self.identity
        self.start: int = about.get("start", model._num_timesteps_at_start)
        self.last_checkpoint: Path | None = None if continuation is None else continuation.path
        self.folder = INTERRUPTED_FOLDER
        self._saved: list[Path] = []
        self._exit = ExitStack()

    def __enter__(self) -> Run:
        if self.continuation is not None:
            state = self.continuation.state
            put_in_place(lambda: restore(self.model, state), self.continuation.path)
            for evaluation in self._evaluations():
                recall_evaluations(evaluation, self.model.num_timesteps)
            counts = self.continuation.about.get("callbacks", [])  # version 0.1.0 kept none
            put_in_place(lambda: restore_counts(self.callback, counts), self.continuation.path)
            best = self.continuation.about["best_mean_rewards"]
            for evaluation, reward in zip(self._evaluations(), best, strict=False):
                evaluation.best_mean_reward = reward  # lest a worse model replace best_model.zip
            self.continuation.state.clear()  # its buffers are memory
            self.model._continuation = None
        make_patient(self.model.logger)
        self.model._run = self
        self._exit.callback(setattr, self.model, "_run", None)
        self.interrupt = self._exit.enter_context(deferred_interrupts("this gradient step"))
        ranks.take_from_first(self._tensors())
        self.model.streams.part(ranks.rank(), self.model.num_timesteps)
        return self

    def agreed(self, proceed: bool) -> bool:
        """Whether all ranks go on; a signal to one of them is one to all."""
        signal, stop = ranks.largest(self.interrupt.signal or 0, not proceed)
        self.interrupt.signal = signal or None
        return not stop

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._exit.close()
        if kind is not None:  # SB3 closes its bars at the end of training alone, and an open one hides the terminal's cursor
            for bar in walk(self.callback):
                if isinstance(bar, ProgressBarCallback):
                    bar.pbar.close()

    def check_ranks(self) -> None:
        """:raises RankLostError: if the processes of this run no longer train one model"""
        ranks.check_alike([tensor for tensor in self._tensors() if tensor.is_floating_point()])

    def _tensors(self) -> list[th.Tensor]:
        return [tensor for slot in slots_of(self.model) for tensor in slot.tensors]

    def saved(self, path: Path) -> None:
        """The portable model was written there."""
        self._saved.append(path)

    def after_step(self) -> None:
        """
        :raises TrainingDivergedError: if a number is no longer finite; looked at every ``CHECK_FREQ`` steps
        :raises KeyboardInterrupt: if the user wants to stop, once the model is saved
        """
        if self.model.num_timesteps % CHECK_FREQ == 0:
            self.check_ranks()
            self.check_health()
        if self.interrupt:
            path = self._interrupted_path()
            self.model.save(path)
            self._write_siblings()
            name, file = type(self.model).__name__, sibling(path)
            how = "with any number of processes" if ranks.size() > 1 else "exactly there"  # others' streams begin anew
            self.interrupt.stop(
                f"{name} stopped at step {self.model.num_timesteps:,} and is saved: {path}. To go on {how}: "
                f'{name}.resume("{file}").learn(), with env= or dataset= where you gave objects instead of ids or paths.'
            )
        self._write_siblings()

    def check_health(self) -> None:
        """:raises TrainingDivergedError: naming the step, the term and the last good checkpoint."""
        step, failure = self.model.num_timesteps, self.model.log_sums.watch.first_failure()
        if failure is not None:
            name, for_steps = failure
            kind = "NaN" if math.isnan(self.model.log_sums.sums[name]) else "infinite"
            self._diverged(f"{name} became {kind} at step {step - for_steps + 1:,}")
        parameter = non_finite_parameter(self.model)
        if parameter is not None:
            self._diverged(f"the parameter {parameter} holds NaN or infinite numbers at step {step:,}")

    def _diverged(self, what: str) -> None:
        last = "no checkpoint was saved" if self.last_checkpoint is None else f"the last good one is {self.last_checkpoint}"
        raise TrainingDivergedError(
            f"{type(self.model).__name__} diverged: {what}. Nothing was overwritten; {last}. Lower the learning rates, look "
            "at the data for outliers, or raise the conservatism."
        )

    def _write_siblings(self) -> None:
        if not self._saved:
            return
        model = self.model
        about = (
            describe(model, self.start)
            | self._data_facts
            | {
                "run": self.identity,
                "callbacks": counts_of(self.callback),
                "best_mean_rewards": [float(evaluation.best_mean_reward) for evaluation in self._evaluations()],
            }
        )
        state, label = capture(model, about), str(Label(self.identity, model.num_timesteps, time.time_ns() // 10**6))
        for path in self._saved:
            write_atomically(sibling(path), lambda file: write_checked(file, state, label))
            self.last_checkpoint = sibling(path)
            forget_older(path.parent, self.identity)
        self._saved.clear()

    @cached_property
    def _data_facts(self) -> dict[str, Any]:
        info, fingerprint = self.dataset.info, self.dataset.fingerprint()
        return {"dataset": info.dataset_id, "rows": len(self.dataset), "fingerprint": fingerprint}

    def _interrupted_path(self) -> Path:
        """Where checkpoints go, else where the best model goes, else :attr:`folder`."""
        step = self.model.num_timesteps
        for checkpoints in walk(self.callback):
            if isinstance(checkpoints, CheckpointCallback):
                return Path(checkpoints.save_path) / f"{checkpoints.name_prefix}_{step}_steps.zip"
        folders = [Path(each.best_model_save_path) for each in self._evaluations() if each.best_model_save_path]
        return [*folders, self.folder][0] / f"{type(self.model).__name__}_{step}_steps.zip"

    def _evaluations(self) -> list[EvalCallback]:
        return [callback for callback in walk(self.callback) if isinstance(callback, EvalCallback)]


def recall_evaluations(evaluation: EvalCallback, until: int) -> None:
    """
    Take up what an interrupted run has evaluated: SB3 writes all evaluations each time, and knows those of its own process.

    :param until: the step of the checkpoint; what the interrupted run did later is done again
    """
    path = Path(f"{evaluation.log_path}.npz")
    if evaluation.log_path is None or evaluation.evaluations_timesteps or not is_regular(path):
        return
    try:
        found = read_npz(path, _EVALUATIONS.keys() & npz_keys(path))
        rows = np.flatnonzero(found["timesteps"] <= until)
        earlier = {held: found[name][rows].tolist() for name, held in _EVALUATIONS.items() if name in found}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        warnings.warn(f"{path} is damaged, and its evaluations are not taken up: {error}", stacklevel=2)
        return
    for held, values in earlier.items():
        getattr(evaluation, held).extend(values)


_EVALUATIONS = {
    "timesteps": "evaluations_timesteps",
    "results": "evaluations_results",
    "ep_lengths": "evaluations_length",
    "successes": "evaluations_successes",
}
