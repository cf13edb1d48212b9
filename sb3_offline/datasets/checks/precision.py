"""Whether numbers still tell apart what they told apart, once they are float32."""

from __future__ import annotations

import warnings

import numpy as np

from sb3_offline.datasets.errors import DatasetWarning

_BLOCKS, _BLOCK_ROWS = 16, 1024  # rows that are looked at: neighbours, for the steps between them
_ERROR = 1e-3  # largest rounding error, in standard deviations
_LOST_STEPS = 0.5  # share of the steps between rows
_EXACT = 2.0**24  # up to here float32 holds every whole number
_FAR = 16  # spans from zero: the rounding error is then 1e-6 of the span at most


def may_lose_precision(dtype: np.dtype, low: np.ndarray, high: np.ndarray) -> bool:
    """
    Whether numbers of a type within these bounds may be among those that :func:`warn_of_lost_precision` warns of: large, or
    far from zero for their span.
    """
    if dtype.itemsize < 4 or dtype == np.float32:
        return False
    largest = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
    far = (dtype.kind == "f") & (largest > _FAR * (high.astype(np.float64) - low))
    return bool(((high > low) & ((largest >= _EXACT) | far)).any())


def warn_of_lost_precision(name: str, array: np.ndarray, where: str) -> None:
    """
    Warn of dimensions whose rounding error in float32 is over 1e-3 of their spread, or of whose steps from row to row more
    than half become zero.

    :param array: (n, ...) numbers of any type
    """
    if array.dtype.itemsize < 4 or array.dtype == np.float32 or len(array) < 2:
        return
    flat = array.reshape(len(array), -1)
    lost = np.flatnonzero(_are_lost(flat))
    if len(lost) == 0:
        return
    values = flat[:, lost[0]]
    before, after = (len(np.unique(column)) for column in (values, values.astype(np.float32)))
    dimensions = ("dimension " if len(lost) == 1 else "dimensions ") + ", ".join(map(str, lost))
    warnings.warn(
        f"{where}: {name}, {dimensions}: float32, in which networks compute, has no room for these numbers (up to "
        f"{np.abs(values).max():.4g}): {before:,} different values become {after:,}. Subtract what does not change, such as "
        "the first time or an offset, before you log them.",
        DatasetWarning,
        stacklevel=2,
    )


def _are_lost(flat: np.ndarray) -> np.ndarray:
    """(d,) bool"""
    starts = np.unique(np.linspace(0, max(len(flat) - _BLOCK_ROWS, 0), _BLOCKS).astype(np.int64))
    blocks = [flat[start : start + _BLOCK_ROWS] for start in starts]
    exact = np.concatenate(blocks).astype(np.float64)
    with np.errstate(all="ignore"):  # what is not finite is refused elsewhere
        rounding = np.abs(exact - exact.astype(np.float32)).max(axis=0)
        steps = np.concatenate([np.diff(block.astype(np.float64), axis=0) for block in blocks])
        rounded = np.concatenate([np.diff(block.astype(np.float32), axis=0) for block in blocks])
        spread = exact.std(axis=0)
        lost = (np.abs(steps) > 1e-9 * spread) & (rounded == 0)
        share = lost.sum(axis=0) / np.maximum((steps != 0).sum(axis=0), 1)
        moving = exact.max(axis=0) > exact.min(axis=0)
        return moving & ((rounding > _ERROR * spread) | (share > _LOST_STEPS))
