"""The rows of a table in the order of time, without holding them: sorted on the disk if they have to be."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets.mapped import blocks, row_bytes_of, rows_at_once
from sb3_offline.datasets.offline_dataset import DatasetInfo
from sb3_offline.datasets.sources.tables.columns import Columns
from sb3_offline.datasets.sources.tables.frames import Frame
from sb3_offline.datasets.sources.tables.functions import call_functions
from sb3_offline.datasets.sources.tables.order import Order
from sb3_offline.datasets.sources.tables.reading import mark_ends, read_block
from sb3_offline.datasets.sources.tables.values import Survey


def table_blocks(
    frame: Frame, columns: Columns, surveys: Mapping[str, Survey], order: Order, info: DatasetInfo, scratch: Path
) -> Iterator[dict[str, Any]]:
    """
    :param scratch: where the rows lie while they are sorted
    """
    given = call_functions(frame, columns, order)
    parts = (read_block(part, columns, surveys, info) for part in _small(frame, columns))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        ordered = parts if order.rows is None else _sorted_on_disk(parts, order.rows, Path(folder))
        start = 0
        for arrays in ordered:
            rows = slice(start, start + len(arrays["actions"]))
            arrays |= {role: values[rows] for role, values in given.items()}
            mark_ends(arrays, columns, surveys, order, rows, frame.path)
            start = rows.stop
            yield arrays
    frame.forget()


def _small(frame: Frame, columns: Columns) -> Iterator[Any]:
    for block in frame.blocks(columns.used()):
        for rows in blocks(len(block), rows_at_once(block.nbytes // len(block))):
            yield block.slice(rows.start, rows.stop - rows.start)


def _sorted_on_disk(parts: Iterator[dict[str, Any]], order: np.ndarray, folder: Path) -> Iterator[dict[str, Any]]:
    """Each row is written to its place in memory-mapped files, which are then read from the first row on."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    files: dict[str, Any] = {}
    start = 0
    for part in parts:
        n = len(part["actions"])
        _scatter(part, place[start : start + n], len(order), files, folder)
        start += n
    for rows in blocks(len(order), rows_at_once(row_bytes_of(files.values()))):
        yield _taken(files, rows)


def _scatter(part: Mapping[str, Any], places: np.ndarray, n_rows: int, files: dict[str, Any], folder: Path) -> None:
    for number, (name, values) in enumerate(part.items()):
        if isinstance(values, dict):
            (folder / str(number)).mkdir(exist_ok=True)
            _scatter(values, places, n_rows, files.setdefault(name, {}), folder / str(number))
            continue
        if name not in files:
            shape = (n_rows, *values.shape[1:])
            files[name] = np.lib.format.open_memmap(folder / f"{number}.npy", "w+", values.dtype, shape)
        files[name][places] = values


def _taken(files: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    return {name: _taken(part, rows) if isinstance(part, dict) else np.array(part[rows]) for name, part in files.items()}
