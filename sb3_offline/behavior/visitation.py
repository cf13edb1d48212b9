"""n(s) by cells: constant, exact for discrete states, SimHash; and the door to every estimate, :func:`make_visitation`."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, get_args

import torch as th

from sb3_offline.behavior.behavior_policy import observation_moments
from sb3_offline.behavior.distillation import DistilledCounts
from sb3_offline.behavior.neighbors import NeighborCounts
from sb3_offline.behavior.visits import ROWS_PER_CELL, CountScale, VisitationCounts
from sb3_offline.buffers.rows import Rows, row_blocks

VisitationMode = Literal["simhash", "constant", "exact", "knn", "rnd"]

_CHUNK = 65_536  # rows hashed at once by fit


class CellCounts(VisitationCounts):
    """n(s) is the number of rows of the data in the cell of s, and 1 in an empty one: one table look-up a state."""

    visits: th.Tensor  # n(s) of each cell, scaled, (n_cells,); empty before fit
    sized_by_fit: tuple[str, ...] = ("visits",)

    def __init__(self, *, count_scale: CountScale = "reference", n_ref: float = 1.0):
        super().__init__(count_scale=count_scale, n_ref=n_ref)
        self.register_buffer("visits", th.empty(0))

    def _fit(self, data: Rows, generator: th.Generator) -> None:
        n_cells = self._partition(data, generator)
        counts = th.zeros(n_cells, dtype=th.int64, device=data.device)
        for (rows,) in row_blocks(data):
            for part in rows.split(_CHUNK):
                counts += th.bincount(self.cells(part), minlength=n_cells)
        n = counts.clamp(min=1).double()
        mean_rsqrt = (counts * n.rsqrt()).sum() / len(data)  # mean over the data of n^{-1/2}
        self.visits = (n * self.rescaling(mean_rsqrt)).to(self.visits.dtype)

    def _count(self, observations: th.Tensor) -> th.Tensor:
        return self.visits[self.cells(observations)]

    @abstractmethod
    def cells(self, observations: th.Tensor) -> th.Tensor:
        """The cell of each observation, (B,) int64."""

    @abstractmethod
    def _partition(self, data: Rows, generator: th.Generator) -> int:
        """Choose the cells from the data; their number."""


class ConstantCounts(CellCounts):
    """One cell holds every state: n = \\|D\\| raw, as in strict DROMO (Eq 17), and n_ref by reference."""

    def cells(self, observations: th.Tensor) -> th.Tensor:
        return th.zeros(len(observations), dtype=th.int64, device=observations.device)

    def _partition(self, data: Rows, generator: th.Generator) -> int:
        return 1


class ExactCounts(CellCounts):
    """
    Exact counts of discrete states.

    :param n_states: S; observations are one-hot rows (B, S), or whole numbers in [0, S) of shape (B,) or (B, 1).
    """

    def __init__(self, n_states: int, *, count_scale: CountScale = "reference", n_ref: float = 1.0):
        super().__init__(count_scale=count_scale, n_ref=n_ref)
        if n_states < 1:
            raise ValueError(f"n_states must be at least 1, got {n_states}")
        self.n_states = n_states

    def cells(self, observations: th.Tensor) -> th.Tensor:
        return observations.argmax(dim=1) if self._one_hot(observations) else observations.flatten().long()

    def _one_hot(self, observations: th.Tensor) -> bool:
        return self.n_states > 1 and observations.shape[1:] == (self.n_states,)

    def _partition(self, data: Rows, generator: th.Generator) -> int:
        return self.n_states

    def _check(self, data: th.Tensor) -> None:
        super()._check(data)
        if self._one_hot(data):
            bad = ((data != 0) & (data != 1)).any(dim=1) | (data.sum(dim=1) != 1)
        elif data.shape[1:] in ((), (1,)):
            index = data.flatten()
            bad = (index < 0) | (index >= self.n_states) | (index != index.long())
        else:
            raise ValueError(
                f"discrete observations must have shape (N,), (N, 1) or (N, {self.n_states}), got {tuple(data.shape)}"
            )
        if bad.any():
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"row {row} of the observations, {data[row].tolist()}, is neither one-hot nor a whole number "
                f"in [0, {self.n_states})"
            )


class SimHashCounts(CellCounts):
    """
    Counts by SimHash (Charikar 2002; for counts Tang et al. 2017, "#Exploration"): states share a cell if they lie on
    the same side of each of k random hyperplanes, k = ceil(log2(\\|D\\| / 32)) and at least 1.

    Observations are standardised. The hyperplanes miss the origin, unlike those of the papers, which tell directions
    apart but not distances (one dimension would have two cells, whatever k).
    """

    mean: th.Tensor
    std: th.Tensor
    normals: th.Tensor  # (obs, k)
    offsets: th.Tensor  # (k,)
    sized_by_fit = ("visits", "mean", "std", "normals", "offsets")

    def __init__(self, *, count_scale: CountScale = "reference", n_ref: float = 1.0):
        super().__init__(count_scale=count_scale, n_ref=n_ref)
        for name in ("mean", "std", "normals", "offsets"):
            self.register_buffer(name, th.empty(0))

    @property
    def n_bits(self) -> int:
        """k; 0 before fit."""
        return len(self.offsets)

    def cells(self, observations: th.Tensor) -> th.Tensor:
        standardised = (observations.to(self.mean.dtype) - self.mean) / self.std
        with th.autocast(observations.device.type, enabled=False):  # the same cells in every precision
            bits = (standardised @ self.normals + self.offsets) > 0
        return (bits * (1 << th.arange(self.n_bits, device=bits.device))).sum(dim=1)

    def _partition(self, data: Rows, generator: th.Generator) -> int:
        n_bits = simhash_bits(len(data))
        drawn = th.randn(data.shape[1] + 1, n_bits, generator=generator, device=generator.device).to(self.mean)
        self.mean, self.std = (moment.to(self.mean) for moment in observation_moments(data))
        self.normals, self.offsets = drawn[:-1], drawn[-1]
        return 1 << n_bits

    def _check(self, data: th.Tensor) -> None:
        super()._check(data)
        if data.ndim != 2:
            raise ValueError(f"observations must have shape (N, obs), got {tuple(data.shape)}: flatten each of them")


def simhash_bits(n_rows: int) -> int:
    """k = ceil(log2(\\|D\\| / 32)), at least 1: cells that hold 32 rows on average."""
    return max(1, math.ceil(math.log2(n_rows / ROWS_PER_CELL)))


def make_visitation(
    mode: VisitationMode = "knn",
    *,
    count_scale: CountScale = "reference",
    n_ref: float = 1.0,
    n_states: int | None = None,
) -> VisitationCounts:
    """
    The estimate of n(s) called ``mode``.

    :param n_states: Number of states, for "exact" only.
    :raises ValueError: if ``mode`` is unknown, or ``n_states`` does not go with it.
    """
    if mode not in get_args(VisitationMode):
        raise ValueError(f"visitation must be one of {get_args(VisitationMode)}, got {mode!r}")
    if (n_states is not None) != (mode == "exact"):
        raise ValueError(f"n_states belongs to visitation='exact' and only to it: got n_states={n_states} for {mode!r}")
    if n_states is not None:
        return ExactCounts(n_states, count_scale=count_scale, n_ref=n_ref)
    estimates = {"constant": ConstantCounts, "simhash": SimHashCounts, "knn": NeighborCounts, "rnd": DistilledCounts}
    return estimates[mode](count_scale=count_scale, n_ref=n_ref)
