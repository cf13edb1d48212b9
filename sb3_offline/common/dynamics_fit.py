"""The fit of a model-based algorithm: out of the cache, or where an interrupted one was, or anew; and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch as th

from sb3_offline._version import __version__
from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.checks import pass_gate
from sb3_offline.dynamics import DynamicsConfig, EpochStats, cache
from sb3_offline.dynamics.cache_entry import CacheEntry
from sb3_offline.dynamics.fit_checkpoint import FitCheckpoint
from sb3_offline.dynamics.report import ModelReport, model_report
from sb3_offline.dynamics.world import fit_world, needs_head
from sb3_offline.execution import ranks
from sb3_offline.training.interrupt import Interrupt, deferred_interrupts
from sb3_offline.training.run import INTERRUPTED_FOLDER


def fit_dynamics(model: Any, dataset: OfflineDataset | None = None, progress_bar: bool = False) -> None:
    """
    Fit the model of the world to the data; called by the first ``learn``, skipped when it is already fitted. With
    ``dynamics_cache`` and a seed, a fit that was interrupted goes on after its last epoch that is on disk.

    :param dataset: The data; the model's own if not given.
    :raises ValueError: if the data is too small to hold any of it out.
    """
    dataset = model.load_dataset() if dataset is None else dataset
    if model.check_data:  # once for equal data
        pass_gate(dataset)
    config = DynamicsConfig.from_kwargs(model.dynamics_kwargs)
    entry: CacheEntry | None = None
    if model.dynamics_cache and model.seed is not None:  # a random seed never comes back
        facts = (dataset.fingerprint(), config, model.streams.seed, __version__, model.device)
        key = cache.cache_key(*facts, learned_termination=needs_head(dataset, config), precision=model.precision)
        entry = CacheEntry(key)
        if _is_cached(model, entry):
            if progress_bar or model.verbose > 0:
                print(f"{type(model).__name__}: the dynamics model of an earlier run is taken from {entry.path}.")
            return
    if progress_bar or model.verbose > 0:
        bound = f"{config.epochs(len(dataset))} epochs"
        if config.patience is not None:
            bound += f", or until {config.patience} of them bring no improvement"
        print(f"{type(model).__name__}: fitting the dynamics model to {len(dataset):,} transitions: {bound}.")
    with deferred_interrupts("this epoch of the dynamics fit") as interrupt:
        alone = entry is not None and ranks.size() == 1  # a file for all ranks would hold the members of one
        checkpoint = FitCheckpoint(entry.checkpoint if alone and entry is not None else None, interrupt)

        def on_epoch(stats: EpochStats) -> bool:
            model._log_dynamics(stats)
            return checkpoint.path is not None or not interrupt  # without a place for it, the best so far ends the fit

        fit_world(
            model.dynamics,
            dataset,
            config,
            model.streams,
            precision=model.precision,
            on_epoch=on_epoch,
            progress_bar=progress_bar,
            checkpoint=checkpoint,
        )
        if checkpoint.path is None and interrupt:
            _keep_interrupted(model, interrupt)
        if entry is not None and ranks.is_first():
            entry.write(model.dynamics, model.streams)
        checkpoint.complete()


def _is_cached(model: Any, entry: CacheEntry) -> bool:
    """Whether the fit is there, for the first of several ranks; then all have it."""
    found = any(ranks.largest(ranks.is_first() and entry.read(model.dynamics, model.streams)))
    if found:
        ranks.take_from_first([*model.dynamics.state_dict().values()])
    return found


def _keep_interrupted(model: Any, interrupt: Interrupt) -> None:
    """What there is of a fit that cannot go on by itself, in a file; the next ``learn`` fits anew."""
    path = INTERRUPTED_FOLDER / f"{type(model).__name__}_dynamics.pt"
    model.save_dynamics(path)
    model.dynamics.fitted.fill_(False)
    interrupt.stop(
        f'The fit of the dynamics was interrupted. Its best epochs so far are kept: model.load_dynamics("{path}") ahead '
        "of learn() takes them. With dynamics_cache=True and a seed, the fit itself goes on where it was."
    )


def save_dynamics(model: Any, path: str | Path) -> None:
    """
    Write the fitted dynamics alone, to be shared by other runs.

    :raises ValueError: if they are not fitted yet.
    """
    cache.save_dynamics(model.dynamics, Path(path))


def load_dynamics(model: Any, path: str | Path) -> None:
    """
    Take fitted dynamics from a file of :meth:`save_dynamics`; ``learn`` then fits none.

    :raises ValueError: if the file is missing, damaged, or of another size.
    """
    cache.load_dynamics(model.dynamics, Path(path))


def log_dynamics(model: Any, stats: EpochStats) -> None:
    """An epoch's figures (``dynamics/*``); ahead of ``learn`` there is no logger."""
    if hasattr(model, "_logger"):
        model.logger.record("dynamics/train_loss", stats.train_loss)
        model.logger.record("dynamics/holdout_error", float(stats.holdout_error.mean()))
        model.logger.record("dynamics/holdout_mse", float(stats.holdout_mse.mean()))
        model.logger.record("dynamics/epoch", stats.epoch)
        model.logger.dump(step=stats.epoch)


def dynamics_report(model: Any, dataset: OfflineDataset | None = None, horizon: int = 50, seed: int = 0) -> ModelReport:
    """
    Can I trust my model? Measures the fitted dynamics on held-out data, with this policy in its rollouts.

    :param dataset: The data; the model's own if not given.
    :param horizon: Most steps of open-loop predictions and rollouts.
    :raises ValueError: if the dynamics are not fitted yet.
    """
    dataset = model.load_dataset() if dataset is None else dataset
    termination = model.resolve_termination(dataset)
    generator = th.Generator(device=model.device).manual_seed(seed)
    return model_report(model.dynamics, dataset, termination, model.rollout_actor(generator), horizon=horizon, seed=seed)
