"""What the trials of a hyperparameter search share, and which fits are given up."""

from __future__ import annotations

from pathlib import Path

from sb3_offline._version import __version__
from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.datasets import OfflineDataset
from sb3_offline.dynamics import DynamicsConfig, EpochStats
from sb3_offline.dynamics.cache import cache_key
from sb3_offline.files.atomic import write_atomically
from sb3_offline.files.checksum import read_checked, write_checked

#: Held-out squared error of a useless fit: targets are standardised, so predicting their mean has an error of about 1.
USELESS_FIT = 0.95


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
    facts = (dataset.fingerprint(), config, seed, __version__, model.device)
    path = folder / f"{cache_key(*facts, precision=model.precision)}.pt"
    if path.is_file():
        saved = read_checked(path)
        model.dynamics.load_state_dict(saved["dynamics"])
        error = saved["error"]
    else:
        error = _fit(model, dataset)
        content = {"dynamics": model.dynamics.state_dict(), "error": error}
        write_atomically(path, lambda file: write_checked(file, content))  # another process never reads half a file
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
