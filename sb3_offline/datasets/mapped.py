"""Data that stay in files: memory-mapped arrays, read where they are indexed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sb3_offline.datasets.checks import build_dataset
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset

BLOCK_ROWS = 65_536  # rows checked, hashed or copied at once
BLOCK_BYTES = 2**26  # of them, where a row is large: images


def blocks(n_rows: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cut ``n_rows`` rows into blocks."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def rows_at_once(row_bytes: int) -> int:
    """How many rows of this size a block has."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(row_bytes, 1)))


def row_bytes_of(arrays: Iterable[Any]) -> int:
    """What a row of all these arrays, or dicts of them, takes."""
    return sum(
        row_bytes_of(array.values()) if isinstance(array, dict) else array.dtype.itemsize * math.prod(array.shape[1:])
        for array in arrays
    )


def blocks_of(dataset: OfflineDataset) -> Iterator[slice]:
    """All rows of a data set, block by block."""
    columns = [getattr(dataset, name) for name in dataset.array_names]
    return blocks(len(dataset), rows_at_once(row_bytes_of(columns)))


def row_blocks(arrays: Collection[Any]) -> Iterator[slice]:
    """
    :param arrays: what has ``shape`` and ``dtype``
    :return: blocks of their rows; a single one where their lengths differ, as with an episode's last observation
    """
    lengths = {array.shape[0] for array in arrays}
    n_rows = max(lengths, default=0)
    return blocks(n_rows, rows_at_once(row_bytes_of(arrays))) if len(lengths) == 1 else iter([slice(0, n_rows)])


@dataclass(frozen=True, eq=False)
class FollowingObservations:
    """
    Next observations without a copy of them: inside an episode the next observation of a row is the observation of the
    following row; only those that are not are kept, the episodes' last ones.

    It is indexed as an array is, and gives arrays; ``np.asarray`` reads all rows.

    :param observations: (n, \\*obs_shape)
    :param final_rows: (k,) int64, increasing: the rows that are followed by another observation; the last row is among them
    :param final_observations: (k, \\*obs_shape), their next observations
    """

    observations: np.ndarray
    final_rows: np.ndarray
    final_observations: np.ndarray

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.observations.shape

    @property
    def ndim(self) -> int:
        return self.observations.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.observations.dtype

    @property
    def itemsize(self) -> int:
        return self.observations.itemsize

    def __getitem__(self, key: Any) -> np.ndarray:
        n = len(self)
        if isinstance(key, slice):
            rows = np.arange(*key.indices(n))
        else:
            key = np.asarray(key)
            rows = np.flatnonzero(key) if key.dtype == bool else np.where(key < 0, key + n, key)
        following = np.array(self.observations[np.minimum(rows + 1, n - 1)])
        place = np.searchsorted(self.final_rows, rows)
        final = self.final_rows[np.minimum(place, len(self.final_rows) - 1)] == rows
        following[final] = self.final_observations[place[final]]
        return following

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        everything = self[:]
        return everything if dtype is None else everything.astype(dtype, copy=False)


def is_mapped(dataset: OfflineDataset) -> bool:
    """Whether the rows are read from files as they are needed."""
    return isinstance(dataset.observations, np.memmap)


def check_mapped(dataset: OfflineDataset, info: DatasetInfo) -> OfflineDataset:
    """
    Check mapped data block by block, against the spaces of ``info``. What would have to be converted is refused: there is
    nowhere to keep it.

    :raises DatasetError: naming the key, the row and the remedy
    """
    where = info.dataset_id
    for rows in blocks_of(dataset):
        block = dataset.arrays(rows)
        try:
            checked = build_dataset(block, info)
        except DatasetError as error:
            raise DatasetError(f"{error} Rows are counted from row {rows.start} of {len(dataset)}.") from error
        for name, values in block.items():
            kept = getattr(checked, name)
            if kept.dtype != values.dtype or kept.shape != values.shape or not np.array_equal(kept, values):
                raise DatasetError(
                    f"{where}: {name} are {values.dtype} of shape {(len(dataset), *values.shape[1:])}, and would have to "
                    f"become {kept.dtype} of shape {(len(dataset), *kept.shape[1:])} inside the space's bounds; "
                    "memory-mapped data are taken as they are. Write them by sb3_offline.datasets.MappedWriter."
                )
    return replace(dataset, info=info)
