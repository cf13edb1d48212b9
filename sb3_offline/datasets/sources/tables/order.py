"""The rows of a table as episodes: sorted by (episode, time), and cut where time has a gap."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.tables.columns import Columns
from sb3_offline.datasets.sources.tables.frames import Frame
from sb3_offline.datasets.sources.tables.values import numbers, survey_column

if TYPE_CHECKING:
    import pyarrow as pa

_GAP = 1.5  # times the median step


@dataclass(frozen=True)
class Order:
    """
    :param rows: (n,) the table's rows in the order of time; None if they are in it
    :param ends: (n,) bool, in the order of time: each episode's last row
    :param gaps: (n,) bool, in the order of time: rows after which time has a gap
    :param said: what was done, in words
    """

    rows: np.ndarray | None
    ends: np.ndarray
    gaps: np.ndarray
    said: list[str] = field(default_factory=list)


def order_rows(frame: Frame, columns: Columns, n_rows: int) -> Order:
    """
    Only the columns of episode and time are read.

    :raises DatasetError: if two rows of an episode have one time
    """
    keys = [name for name in (columns.episode, columns.time) if name is not None]
    episode, time, unit = _read_keys(frame, columns, keys, n_rows)
    rows = _sorting(episode, time)
    if rows is not None:  # one after the other: of large tables each is large
        episode = episode[rows]
        time = None if time is None else time[rows]
    same = episode[1:] == episode[:-1]
    ends = np.append(~same, True)
    gaps, said = np.zeros(n_rows, bool), [_said_order(keys, rows)]
    if columns.episode is not None:
        said.append(f"{int(ends.sum()):,} episodes")
    if time is not None:
        steps = np.diff(time)
        _refuse_equal(steps, same, rows, columns, frame.path)
        limit, how = _limit(steps[same], columns.gap, unit)
        gaps[:-1] = same & (steps > limit)
        said.append(f"{int(gaps.sum()):,} gaps in {columns.time}, {how}: cut there")
    return Order(rows, ends, gaps, said)


def _read_keys(frame: Frame, columns: Columns, keys: list[str], n_rows: int) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Each row's episode and time as numbers, and how many units of the latter are a second; the columns are let go of."""
    table = frame.table(keys) if keys else None
    episode = np.zeros(n_rows, np.int64) if columns.episode is None else _ranks(table, columns.episode, frame.path)
    time, unit = (None, 1.0) if columns.time is None else _times(table, columns.time, frame.path)
    return episode, time, unit


def _said_order(keys: list[str], rows: np.ndarray | None) -> str:
    if not keys:
        return "rows taken in the table's order"
    if rows is None:
        return f"in the order of {', '.join(keys)} already"
    moved = int((rows != np.arange(len(rows))).sum())
    return f"sorted by {', '.join(keys)}: {moved:,} rows moved"


def _sorting(episode: np.ndarray, time: np.ndarray | None) -> np.ndarray | None:
    """Rows in the order of episode, then time, then as they were; None if they are in it."""
    rising, equal = episode[1:] > episode[:-1], episode[1:] == episode[:-1]
    if (rising | (equal if time is None else equal & (time[1:] >= time[:-1]))).all():
        return None
    return np.lexsort((episode,) if time is None else (time, episode))


def _limit(steps: np.ndarray, gap: float | None, unit: float) -> tuple[float, str]:
    """The longest step that is none, in the column's own units."""
    if gap is not None:
        return gap * unit, f"steps longer than {gap:g}"
    median = float(np.median(steps, overwrite_input=True)) if len(steps) else 0.0
    return _GAP * median, f"steps longer than {_GAP:g} times the median, {median / unit:g}"


def _refuse_equal(steps: np.ndarray, same: np.ndarray, rows: np.ndarray | None, columns: Columns, where: str) -> None:
    equal = np.flatnonzero(same & (steps == 0))
    if len(equal):
        one, other = (int(row if rows is None else rows[row]) for row in (equal[0], equal[0] + 1))
        files = columns.episode is None and Path(where).is_dir()
        raise DatasetError(
            f"{where}: rows {one} and {other} have the same {columns.time}"
            f"{'' if columns.episode is None else f' and {columns.episode}'} ({len(equal)} such pairs): which came first "
            "cannot be told. Drop one of them, or name the column that tells the episodes apart."
            f"{' Files that are one episode each are given as a list of files.' if files else ''}"
        )


def _ranks(table: Any, name: str, where: str) -> np.ndarray:
    """(n,) whole numbers in the order of the values, equal where they are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return numbers(column, name, where)
    if column.null_count or pa.types.is_floating(column.type):
        survey_column(column, name, where)  # refuses what is missing, and NaN
    encoded = pc.dictionary_encode(column).combine_chunks()
    values = encoded.dictionary
    rank = np.empty(len(values), np.int64)
    rank[pc.sort_indices(values).to_numpy()] = np.arange(len(values))
    return rank[encoded.indices.to_numpy(zero_copy_only=False)]


def _times(table: Any, name: str, where: str) -> tuple[np.ndarray, float]:
    """(n,) times, and how many of their units are a second; plain numbers are their own unit."""
    import pyarrow as pa

    column: pa.ChunkedArray = table[name]
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):
        per_second = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[column.type.unit]
        return numbers(column.cast(pa.int64()), name, where), per_second
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DatasetError(
            f"{where}: column {name!r}, the time, is of type {kind}; numbers or dates "
            "are needed (pandas.to_datetime makes them)."
        )
    values = numbers(column, name, where)
    if values.dtype.kind == "u":
        values = values.astype(np.int64)  # differences may be negative
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DatasetError(f"{where}: column {name!r}, the time, holds NaN or inf in row {row}.")
    return values, 1.0
