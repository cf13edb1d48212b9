"""Figures of all rows, read in slices: nothing is copied whole, so memory-mapped arrays stay on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.bounded import is_bounded
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows

_SLICE_BYTES = 1 << 20  # fits the processor's cache
_WIDE_ROW = 4096  # bytes
_BINS = 20
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class DimensionStatistics:
    """Of each flattened dimension, those of a Dict space key after key, over all rows; each (d,) float64."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """(d,) bool"""
        return self.low == self.high


@dataclass(frozen=True)
class Statistics:
    """
    What the checks and the data card are made of.

    ``saturation`` is the share of rows at a bound of the action space, and ``coverage`` that of 20 bins of the action
    space's range which hold a row, for each action dimension; ``duplicates`` are the rows whose whole transition (s, a, r,
    s', end) an earlier row has had.
    """

    observations: DimensionStatistics
    actions: DimensionStatistics
    saturation: np.ndarray
    coverage: np.ndarray
    duplicates: np.ndarray


def measure(dataset: OfflineDataset) -> Statistics:
    """Read every row."""
    transition = (dataset.observations, dataset.actions, dataset.rewards, dataset.next_observations, dataset.terminations)
    hashes = hash_rows(*transition)
    saturation, coverage = _use_of_action_space(dataset)
    return Statistics(describe(dataset.observations), describe(dataset.actions), saturation, coverage, _repeated(hashes))


def slices(n: int, row_bytes: int) -> Iterator[slice]:
    """0..n in pieces of about a megabyte."""
    step = max(_SLICE_BYTES // max(row_bytes, 1), 1)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def describe(array: np.ndarray) -> DimensionStatistics:
    """Mean, spread and range of each flattened dimension of an array (n, ...)."""
    n, width = len(array), flat_rows(array[:1]).shape[1]
    mean, squares = np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for part in slices(n, 8 * width):
        values = flat_rows(array[part]).astype(np.float64)
        own = values.mean(axis=0)
        shift = own - mean  # Chan et al. 1979: moments of two parts
        squares += np.square(values - own).sum(axis=0) + shift**2 * (part.start * len(values) / part.stop)
        mean += shift * (len(values) / part.stop)
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
    return DimensionStatistics(mean, np.sqrt(squares / n), low, high)


def hash_rows(*arrays: np.ndarray) -> np.ndarray:
    """(n,) uint64: equal rows have equal hashes, others differ but for a chance of about 2^-64 a pair; -0.0 is 0.0."""
    n = len(arrays[0])
    hashes = np.full(n, n, dtype=np.uint64)
    width = sum(array.itemsize * int(np.prod(array.shape[1:])) for array in arrays)
    for part in slices(n, width):
        if width > _WIDE_ROW:
            hashes[part] = _digests([_raw(array[part]) for array in arrays])
            continue
        state = hashes[part]
        for array in arrays:
            for word in _words(array[part]):
                state ^= word
                state *= _PRIME
                state ^= state >> np.uint64(29)
    return hashes


def _digests(columns: list[np.ndarray]) -> np.ndarray:
    """Of each row over all columns (n, bytes): for long rows faster than a pass for each of their words."""
    rows = zip(*columns, strict=True)
    return np.frombuffer(b"".join(blake2b(b"".join(row), digest_size=8).digest() for row in rows), np.uint64)


def _raw(rows: np.ndarray) -> np.ndarray:
    """The bytes of each row, (n, bytes)."""
    flat = np.ascontiguousarray(rows.reshape(len(rows), -1))
    if flat.dtype.kind == "f":
        flat = flat + flat.dtype.type(0)
    return flat.view(np.uint8)


def _words(rows: np.ndarray) -> np.ndarray:
    """The bytes of each row as 32-bit words, (words, n)."""
    raw = _raw(rows)
    missing = -raw.shape[1] % 4
    if missing:
        raw = np.pad(raw, ((0, 0), (0, missing)))
    return np.ascontiguousarray(raw.view(np.uint32).T)


def _repeated(hashes: np.ndarray) -> np.ndarray:
    first = np.unique(hashes, return_index=True)[1]
    repeated = np.ones(len(hashes), dtype=bool)
    repeated[first] = False
    return np.flatnonzero(repeated)


def _use_of_action_space(dataset: OfflineDataset) -> tuple[np.ndarray, np.ndarray]:
    """Shares at a bound, and of bins in use, of each action dimension; empty where they mean nothing."""
    space, n = dataset.action_space, len(dataset)
    if isinstance(space, spaces.Discrete):
        return np.empty(0), np.array([len(np.unique(dataset.actions)) / int(space.n)])
    if not isinstance(space, spaces.Box) or not is_bounded(space):
        return np.empty(0), np.empty(0)
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    span = np.where(high > low, high - low, 1.0)
    at_bound, used = np.zeros(len(low)), np.zeros((len(low), _BINS), dtype=bool)
    for part in slices(n, 8 * len(low)):
        unit = (dataset.actions[part].reshape(-1, len(low)) - low) / span
        at_bound += ((unit <= 1e-3) | (unit >= 1 - 1e-3)).sum(axis=0)
        bins = np.clip((unit * _BINS).astype(np.int64), 0, _BINS - 1)
        used[np.broadcast_to(np.arange(len(low)), bins.shape), bins] = True
    return at_bound / n, used.mean(axis=1)
