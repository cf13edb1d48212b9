"""The learn loop of every offline algorithm, and what it logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import safe_mean

from sb3_offline.arguments import check_count, check_flag, check_steps, check_text
from sb3_offline.buffers.statistics import fill_statistics
from sb3_offline.common.data_backed import match_normalization, trained_env, with_goals
from sb3_offline.common.idle import warn_of_assignments
from sb3_offline.common.validation import Validation, hold_out
from sb3_offline.datasets.checks import pass_gate, refuse_broken
from sb3_offline.datasets.sources import Source
from sb3_offline.execution import ranks
from sb3_offline.execution.optimizers import check_gradients
from sb3_offline.training.callback_checks import check_callback, warn_of_idle
from sb3_offline.training.health import TrainingDivergedError
from sb3_offline.training.logged_values import show_sums
from sb3_offline.training.run import Run
from sb3_offline.training.tensorboard import open_run
from sb3_offline.training.time_estimate import TimeEstimate

DEFAULT_TIMESTEPS = 100_000

SelfLearner = TypeVar("SelfLearner", bound=Any)


def learn(
    self: SelfLearner,
    total_timesteps: int | None = None,
    callback: MaybeCallback = None,
    log_interval: int | None = 1000,
    tb_log_name: str | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    validation: Source | float | None = None,
) -> SelfLearner:
    """
    Train on the dataset. One timestep is one gradient step; nothing is collected. A model of :meth:`resume` finishes the
    interrupted call: ``total_timesteps`` is that call's, and may be left out.

    :param total_timesteps: Number of gradient steps; 100,000 if not given.
    :param callback: Any SB3 callback(s).
    :param log_interval: Gradient steps between log lines; ``None`` logs nothing.
    :param tb_log_name: Name of the TensorBoard run; the class's name if not given.
    :param reset_num_timesteps: ``False`` continues the count of an earlier call.
    :param progress_bar: Show a progress bar, also while models are fitted.
    :param validation: Hold out this share of the episodes from every fit, or take these data, and log what they say at
        each log line (``validation/*``, :class:`~sb3_offline.common.validation.Validation`). A resumed run needs it too.
    :return: The trained model.
    :raises ValueError: if there is no data, it does not fit this model, it cannot be right (unless ``check_data`` is
        False), or it is not that of the resumed run.
    :raises TrainingDivergedError: if a loss or a parameter becomes NaN or infinite.
    :raises KeyboardInterrupt: after Ctrl-C, once the step is finished and the model is saved.
    """
    arguments = (total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar, validation)
    with closing(self.learning(*arguments)) as steps:
        for _ in steps:
            self.update()
    return self


def learning(
    self: Any,  # by this name SB3's callbacks find the model among the loop's locals
    total_timesteps: int | None = None,
    callback: Any = None,  # any of SB3's, then the one object that it makes of them
    log_interval: int | None = 1000,
    tb_log_name: str | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    validation: Source | float | None = None,
) -> Generator[None, None, None]:
    """
    :meth:`learn`, which waits ahead of each gradient step for its caller to take it (:meth:`update`). What is around the
    steps is done in between: callbacks, log lines, checkpoints, looks at the numbers.
    """
    if total_timesteps is not None:
        check_steps(total_timesteps)
    check_call(callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
    check_gradients()
    self.check_options()
    warn_of_assignments(self)
    announce = total_timesteps is None or self.verbose > 0
    if not ranks.is_first():  # the first one speaks, looks and saves for all
        callback, log_interval, progress_bar, announce = None, None, False, False
        self.set_logger(Logger(None, []))
    _check_tensorboard_log(self)
    dataset, held_out = hold_out(self, with_goals(self, self.load_dataset()), validation)
    continuation = self._continuation
    if continuation is not None:
        continuation.check_dataset(dataset)
        total_timesteps, reset_num_timesteps = continuation.remaining(total_timesteps), False
    if self.check_data:
        pass_gate(dataset, stacklevel=3)  # whoever calls learn
        if held_out is not None:
            refuse_broken(held_out)
    if self.env is None:  # after load(env=None)
        self.set_env(trained_env(self, dataset.info))
    match_normalization(self, self._vec_normalize_env)
    fill_statistics(self._vec_normalize_env, dataset)
    total_timesteps, callback = self._setup_learn(
        DEFAULT_TIMESTEPS if total_timesteps is None else total_timesteps,
        callback,
        reset_num_timesteps,
        tb_log_name or type(self).__name__,
        progress_bar,
    )
    warn_of_idle(callback, type(self).__name__, imagines=self.refreshes)
    show_sums(self.logger, self.log_sums)
    open_run(self, dataset.info.dataset_id)
    self.prepare(dataset, progress_bar)
    self.validation = None if held_out is None else Validation(self, held_out)
    if self.validation is not None:
        _ = self.validation.names  # refused at once, where there are none

    # SB3's callbacks read these names from the loop's locals
    dones, infos = np.zeros(1, dtype=bool), [{}]  # type: ignore[var-annotated]
    self.policy.set_training_mode(True)
    callback.on_training_start(_shown(locals()), globals())
    if ranks.size() > 1 and ranks.is_first():
        print(
            f"{type(self).__name__}: {ranks.size()} processes train one model: {self.batch_size} rows of each make a batch of "
            f"{ranks.size() * self.batch_size}, each from its own share of the {len(dataset):,} rows."
        )
    estimate = TimeEstimate(type(self).__name__, total_timesteps - self.num_timesteps) if announce else None
    with Run(self, dataset, callback, continuation) as run:
        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self.before_update(callback)
            self.policy.set_training_mode(True)  # a callback may have predicted
            yield
            self.num_timesteps += 1
            callback.update_locals(_shown(locals()))
            proceed = run.agreed(callback.on_step())
            if proceed and log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()
            run.after_step()
            if not proceed:
                break
            if estimate is not None and estimate.print_once():
                estimate = None
        run.check_ranks()
        run.check_health()
        if log_interval is not None and self.log_sums.sums and (self.log_sums.unseen or self.validation is not None):
            self.dump_logs()  # of the steps since the last line; a short run has no other
    callback.on_training_end()


def check_call(
    callback: object, log_interval: object, tb_log_name: object, reset_num_timesteps: object, progress_bar: object
) -> None:
    """:raises TypeError: for arguments of ``learn`` or ``learn_online`` of another kind, and ValueError out of range"""
    if log_interval is not None:
        check_count("log_interval", log_interval)
    check_callback(callback)
    if tb_log_name is not None:
        check_text("tb_log_name", tb_log_name)
    check_flag("reset_num_timesteps", reset_num_timesteps)
    check_flag("progress_bar", progress_bar)


def _shown(names: dict[str, Any]) -> dict[str, Any]:
    """What callbacks see of the loop: not themselves, lest the model waits for a full collection to be freed."""
    return {name: value for name, value in names.items() if name not in ("callback", "run")}


def dump_logs(self: Any) -> None:
    """Write the means since the last call to the logger (``train/*``, ``time/*``)."""
    if self._run is not None:
        self._run.check_health()
    elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
    if self.ep_info_buffer:
        self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
    self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
    if self._run is None and (failure := self.log_sums.watch.first_failure()) is not None:  # no learn() looks, online
        raise TrainingDivergedError(f"{type(self).__name__} diverged: {failure[0]} is NaN or infinite. Lower the rates.")
    self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
    self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
    self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
    for name, mean in self.log_sums.means().items():
        self.logger.record(f"train/{name}", mean)
    for name, value in ({} if self.validation is None else self.validation.figures()).items():
        self.logger.record(f"validation/{name}", value)
    self.log_sums.reset()
    self.logger.dump(step=self.num_timesteps)


def _check_tensorboard_log(self: Any) -> None:
    try:
        if self.tensorboard_log is not None:
            Path(self.tensorboard_log).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"tensorboard_log={self.tensorboard_log!r} cannot be written: {error}. Name another folder.") from error
