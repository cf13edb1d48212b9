"""n(s), how often the data visits a state: the n of DROMO's alpha sqrt(Var(Q) / n(s)) (Liu, Chen, Zhong, Eq 13).

n(s) is |D| times the mass of a region around s. In a continuous space d(s) is a density, so some such resolution has to
be chosen: cells (:mod:`~sb3_offline.behavior.visitation`), balls (:mod:`~sb3_offline.behavior.neighbors`) or what a network
tells apart (:mod:`~sb3_offline.behavior.distillation`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import numpy as np
import torch as th
from torch import nn

from sb3_offline.buffers.rows import HostRows, Rows

CountScale = Literal["reference", "raw"]

ROWS_PER_CELL = 32  # rows in a region: a SimHash cell, were all filled evenly; a ball at the median state


class VisitationCounts(nn.Module, ABC):
    """
    A map from states to n(s) > 0: ``fit`` once on the data, then ask.

    What it learned is saved with the model. The sizes of that depend on the data: a module that was never fitted takes them
    over from the loaded state.

    :param count_scale: "raw" gives n = \\|D\\| d(s), and 1 where the data never was. "reference" multiplies it by the
        constant that makes the mean of n^{-1/2} over the data n_ref^{-1/2}, so that a weight on the penalty means the
        same for every estimate and every size of the data.
    :param n_ref: The count that "reference" scales to.
    :raises ValueError: for an unknown ``count_scale`` or an ``n_ref`` that is not positive.
    """

    sized_by_fit: tuple[str, ...]  # buffers that are empty before fit

    def __init__(self, *, count_scale: CountScale = "reference", n_ref: float = 1.0):
        super().__init__()
        if count_scale not in get_args(CountScale):
            raise ValueError(f"count_scale must be one of {get_args(CountScale)}, got {count_scale!r}")
        if not 0.0 < n_ref < math.inf:
            raise ValueError(f"n_ref must be positive and finite, got {n_ref}")
        self.count_scale = count_scale
        self.n_ref = n_ref

    @property
    def fitted(self) -> bool:
        return len(self.get_buffer(self.sized_by_fit[0])) > 0

    def fit(self, observations: Rows | np.ndarray, generator: th.Generator) -> None:
        """
        Count the data.

        :param observations: (N, obs), raw units.
        :param generator: The source of whatever is random in the estimate.
        :raises ValueError: if there are no rows, or a row is not finite or not a state.
        """
        data = observations if isinstance(observations, (th.Tensor, HostRows)) else th.tensor(observations)
        if isinstance(data, th.Tensor):
            data = data.to(self.get_buffer(self.sized_by_fit[0]).device)
        self._check(data if isinstance(data, th.Tensor) else data[:1])  # a data set's rows were checked as it was loaded
        self._fit(data, generator)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """n(s), (B,), of observations (B, obs)."""
        if not self.fitted:
            raise RuntimeError(f"{type(self).__name__} has counted nothing yet: call fit(observations, generator) first")
        return self._count(observations)

    def rescaling(self, mean_rsqrt: th.Tensor) -> th.Tensor | float:
        """What to multiply raw counts by, given the mean over the data of their n^{-1/2}."""
        return self.n_ref * mean_rsqrt.square() if self.count_scale == "reference" else 1.0

    @abstractmethod
    def _fit(self, data: Rows, generator: th.Generator) -> None:
        """Count rows that have been checked."""

    @abstractmethod
    def _count(self, observations: th.Tensor) -> th.Tensor:
        """n(s), (B,), after fit."""

    def _check(self, data: th.Tensor) -> None:
        if len(data) == 0:
            raise ValueError("observations have no rows: nothing to count")
        bad = ~data.reshape(len(data), -1).isfinite().all(dim=1)
        if bad.any():
            raise ValueError(f"observations have a non-finite value in row {int(bad.nonzero()[0])}: drop or repair it")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.sized_by_fit:
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
