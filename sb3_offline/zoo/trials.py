"""What the trials of a hyperparameter search share, and when a trial is given up."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

import sb3_offline
from sb3_offline.common.archives import read_tensors
from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import DynamicsConfig, EpochStats
from sb3_offline.dynamics.cache import cache_key

#: Held-out squared error of a useless fit: targets are standardised, so predicting their mean has an error of about 1.
USELESS_FIT = 0.95


class RaiseOnNaN(BaseCallback):
    """
    Ends training when the networks hold NaN or infinite numbers; RL-Zoo prunes trials on ValueError.

    :param check_freq: gradient steps between checks
    """

    def __init__(self, check_freq: int = 100):
        super().__init__()
        self.check_freq = check_freq

    def _on_step(self) -> bool:
        if self.n_calls % self.check_freq == 0:
            self._check()
        return True

    def _on_training_end(self) -> None:
        self._check()

    def _check(self) -> None:
        """:raises ValueError: naming the step"""
        if not all(bool(th.isfinite(parameter).all()) for parameter in self.model.policy.parameters()):
            raise ValueError(f"The networks hold NaN or infinite numbers after {self.num_timesteps} gradient steps.")


def share_dynamics(model: OfflineAlgorithm, dataset: OfflineDataset, folder: Path, seed: int) -> None:
    """
    Give a model-based algorithm a dynamics model that an earlier trial, maybe of another process, has fitted to the same
    data with the same options; fit and keep it if there is none. Nothing happens to other algorithms. Trials are not
    seeded, so these fits are not those of the library's own cache, which can be repeated.

    :param folder: where fits are kept, one file for each (data, ``dynamics_kwargs``, seed)
    :raises ValueError: if the fit diverged, or predicts held-out data hardly better than their mean does
    """
    if not isinstance(model, ModelBasedAlgorithm):
        return
    config = DynamicsConfig.from_kwargs(model.dynamics_kwargs or {})
    facts = (dataset.fingerprint(), config, seed, sb3_offline.__version__, model.device)
    path = folder / f"{cache_key(*facts, precision=model.precision)}.pt"
    if path.is_file():
        saved = read_tensors(path.read_bytes(), str(path), model.device)
        model.dynamics.load_state_dict(saved["dynamics"])
        error = saved["error"]
    else:
        error = _fit(model, dataset)
        _write(path, {"dynamics": model.dynamics.state_dict(), "error": error})
    if not error < USELESS_FIT:
        raise ValueError(
            f"The dynamics model explains nothing: its squared error on held-out data is {error:.3g} of their variance. "
            "Look at the data, and at dynamics_kwargs."
        )


def _fit(model: ModelBasedAlgorithm, dataset: OfflineDataset) -> float:
    """Fit, and return the mean over the members of the best held-out error."""
    errors: list[float] = []

    def note(stats: EpochStats) -> None:
        errors.append(float(stats.best_holdout_error.mean()))

    model._log_dynamics = note  # type: ignore[method-assign]  # before learn() there is no logger to write to
    try:
        model.fit_dynamics(dataset)
    finally:
        del model._log_dynamics
    return errors[-1]


def _write(path: Path, content: dict[str, object]) -> None:
    """In one move, so that another process never reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        th.save(content, file)
    Path(name).replace(path)
