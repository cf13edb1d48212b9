"""One fit in the cache: a convenience, so whatever is wrong with it is warned of, and the fit is done."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch as th

from sb3_offline.dynamics.cache import cache_folder, load_dynamics, save_dynamics
from sb3_offline.dynamics.ensemble import EnsembleDynamics
from sb3_offline.training.rng import Streams


class CacheEntry:
    """
    :param key: of :func:`~sb3_offline.dynamics.cache.cache_key`; it stands in the file too, so that an entry under another's
        name is not taken for it
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.path: Path | None = cache_folder() / f"{key}.pt"
        if not self.path.is_absolute() and str(self.path).startswith("~"):  # there is no home
            self._give_up("there is no home folder")

    @property
    def checkpoint(self) -> Path | None:
        """Where a fit that is interrupted is kept; None without a cache."""
        return None if self.path is None else self.path.with_suffix(".fit.resume")

    def read(self, dynamics: EnsembleDynamics, streams: Streams) -> bool:
        """
        Take the fit, if it is there and whole.

        :param streams: are moved to where the fit left them
        :return: whether it was; otherwise the model is as it was before
        """
        self._before = streams.state()["generators"]
        try:
            if self.path is None or not os.path.lexists(self.path):
                return False
            before = {name: value.clone() for name, value in dynamics.state_dict().items()}
            ends = load_dynamics(dynamics, self.path, self.key)
            try:
                streams.restore({**streams.state(), "generators": ends})
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                dynamics.load_state_dict(before)
                raise ValueError(f"{self.path} holds no states of random streams: {error}") from error
        except (ValueError, OSError) as error:
            warnings.warn(f"The cached fit of the dynamics is not taken, and fitted anew: {error}", stacklevel=3)
            return False
        return True

    def write(self, dynamics: EnsembleDynamics, streams: Streams) -> None:
        """Keep a fit, and where it left the random streams."""
        if self.path is None:
            return
        after = streams.state()["generators"]
        moved = {name: end for name, end in after.items() if name not in self._before or not th.equal(end, self._before[name])}
        try:
            if self.path.is_dir():
                raise IsADirectoryError(f"{self.path} is a folder")
            save_dynamics(dynamics, self.path, self.key, moved)
        except OSError as error:
            self._give_up(str(error))

    def _give_up(self, why: str) -> None:
        warnings.warn(f"Fits of the dynamics are not kept: {why} SB3_OFFLINE_CACHE names another folder.", stacklevel=3)
        self.path = None
