"""Rows that lie in host memory or in files, read and moved to the device as they are asked for."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch as th

from sb3_offline.datasets.mapped import FollowingObservations, blocks
from sb3_offline.networks.observations import map_observations, to_tensors

BLOCK_ROWS = 1 << 18  # of a pass over all rows; data below that are treated in one piece


class HostRows:
    """
    One column of a data set, indexed like a tensor but read from where it lies.

    :param array: (n, ...), a NumPy array, a memory-mapped one, or :class:`FollowingObservations`
    :param device: where the rows go
    :param rows: (k,) which rows of the array these are; None for all
    :param read: applied to the rows that were read, still as an array
    """

    def __init__(
        self,
        array: Any,
        device: th.device | str,
        rows: np.ndarray | None = None,
        read: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ):
        self.array, self.device, self.rows, self.read = array, th.device(device), rows, read

    def __len__(self) -> int:
        return len(self.array if self.rows is None else self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __getitem__(self, index: th.Tensor | slice) -> Any:
        """Rows by a slice or by a tensor (B,) of whole numbers, as a tensor on the device; those of a Dict space by key."""
        if isinstance(index, slice):
            _advise(self.array, "MADV_NORMAL")
            taken = np.array(self.array[index if self.rows is None else self.rows[index]])
        else:
            _advise(self.array, "MADV_RANDOM")
            wanted = index.cpu().numpy()
            if self.rows is not None:
                wanted = self.rows[wanted]
            order = np.argsort(wanted, kind="stable")  # one pass through the file
            taken = np.empty((len(wanted), *self.array.shape[1:]), self.array.dtype)
            taken[order] = self.array[wanted[order]]
        return map_observations(to_tensors(self.read(taken)), lambda rows: rows.to(self.device))


Rows: TypeAlias = th.Tensor | HostRows


def row_blocks(*columns: Rows, order: th.Tensor | None = None) -> Iterator[tuple[th.Tensor, ...]]:
    """
    The same rows of each column, block by block, so that columns may be larger than memory.

    :param order: (k,) rows to take; None takes all in their order. If they fill more than a block, they are sorted.
    """
    if order is not None and len(order) > BLOCK_ROWS:
        order = order.sort().values
    for rows in blocks(len(columns[0] if order is None else order), BLOCK_ROWS):
        yield tuple(column[rows if order is None else order[rows]] for column in columns)


def first_row(column: Rows, bad: Callable[[th.Tensor], th.Tensor]) -> int | None:
    """The first row of which ``bad``, a block (B, ...) -> (B,) bool, is True; None if there is none."""
    start = 0
    for (block,) in row_blocks(column):
        found = bad(block).nonzero()
        if len(found):
            return start + int(found[0])
        start += len(block)
    return None


def _advise(array: Any, advice: str) -> None:
    """Tell the kernel whether to read ahead: around a single random row it would read far more than the row."""
    if isinstance(array, FollowingObservations):
        array = array.observations
    if isinstance(array, np.memmap) and hasattr(mmap, advice):
        array._mmap.madvise(getattr(mmap, advice))  # type: ignore[attr-defined]
