"""A table as a source of data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.checks import build_dataset
from sb3_offline.datasets.errors import DatasetError, DatasetWarning
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset
from sb3_offline.datasets.sources.raw import RawSource, collect_metadata, raw_from_metadata
from sb3_offline.datasets.sources.tables.columns import Columns, advice, parse_columns
from sb3_offline.datasets.sources.tables.deriving import derive_action_space, derive_observation_space
from sb3_offline.datasets.sources.tables.frames import Camera, Frame, is_frame, is_table_file, is_table_folder
from sb3_offline.datasets.sources.tables.functions import call_functions
from sb3_offline.datasets.sources.tables.guessing import guess_columns
from sb3_offline.datasets.sources.tables.order import Order, order_rows
from sb3_offline.datasets.sources.tables.reading import mark_ends, read_block, survey
from sb3_offline.datasets.sources.tables.sorting import table_blocks
from sb3_offline.datasets.sources.tables.values import Survey, whole_numbers_of
from sb3_offline.datasets.sources.task import Task

__all__ = ["is_frame", "is_table_file", "is_table_folder", "open_table"]

_MANY_CUTS = 0.05  # of the rows


def open_table(source: Any, task: Task, cameras: Sequence[Camera] = ()) -> RawSource:
    """
    Survey a table once; its arrays are read when they are asked for.

    :param cameras: columns of images that lie elsewhere, in videos
    :raises DatasetError: if it cannot be read, ``columns`` do not fit it, values are missing, or rows cannot be ordered
    """
    frame = Frame(source, cameras)
    columns, how = _columns(frame, task.columns)
    n_rows, surveys = survey(frame, columns)
    order = order_rows(frame, columns, n_rows)
    if order.gaps.sum() > max(10, _MANY_CUTS * n_rows):
        warnings.warn(
            f"{frame.path}: {order.gaps.mean():.0%} of the rows are followed by a gap in {columns.time}. If its steps are "
            'irregular by nature, give the longest one that is no gap: columns={..., "gap": ...}, or inf.',
            DatasetWarning,
            stacklevel=5,
        )
    said = [
        f"{n_rows:,} rows of {frame.name}",
        *frame.said,
        f"columns {how}: {columns}",
        *order.said,
        *_said_categories(surveys),
    ]
    metadata = collect_metadata(frame.name, {"metadata": frame.facts.get("metadata", {})})
    facts = {"source": "table", "reading": said, **_categories(surveys)}
    return raw_from_metadata(
        frame.name,
        dict,  # never called: reading needs the spaces, see build
        {**metadata, **facts},
        build=lambda info: _build(frame, columns, surveys, order, info),
        derive=lambda kind: _derive(kind, columns, surveys, frame.path, task.part),
        blocks=lambda info, scratch: table_blocks(frame, columns, surveys, order, info, scratch),
    )


def _columns(frame: Frame, given: Any) -> tuple[Columns, str]:
    if given is not None:
        return parse_columns(given, frame.names, frame.path), "as given"
    if "columns" in frame.facts:
        return parse_columns(frame.facts["columns"], frame.schema.names, frame.path), "as the file says"
    guess = guess_columns(frame.schema.names)
    missing = [role for role in ("observations", "actions", "rewards", "terminations") if role not in guess]
    if missing:
        raise DatasetError(
            f"{frame.path}: columns= must say which columns are {', '.join(missing)}; by their names the others would be "
            f"{guess}.{advice(missing, frame.schema.names)}"
        )
    columns = parse_columns(guess, frame.schema.names, frame.path)
    unused = [name for name in frame.schema.names if name not in columns.used()]
    rest = f" Not used: {', '.join(map(repr, unused))}." if unused else ""
    warnings.warn(f"{frame.path}: columns taken by their names: {columns}.{rest} Pass columns= to say it.", stacklevel=6)
    return columns, "guessed from their names"


def _categories(surveys: dict[str, Survey]) -> dict[str, Any]:
    found = {name: list(one.categories) for name, one in surveys.items() if one.categories is not None}
    return {"categories": found} if found else {}


def _said_categories(surveys: dict[str, Survey]) -> list[str]:
    said = []
    for name, found in surveys.items():
        if found.categories is not None:
            coded = whole_numbers_of(found.categories) is None  # else they are their own values
            listed = (f"{code} = {value}" if coded else str(value) for code, value in enumerate(found.categories))
            said.append(f"{name}: " + ", ".join(listed))
    return said


def _derive(kind: str, columns: Columns, surveys: dict[str, Survey], where: str, part: bool) -> spaces.Space:
    if kind == "observation":
        return derive_observation_space(columns.observations, surveys)
    return derive_action_space(columns.actions, surveys, where, part)


def _build(frame: Frame, columns: Columns, surveys: dict[str, Survey], order: Order, info: DatasetInfo) -> OfflineDataset:
    return build_dataset(_read(frame, columns, surveys, order, info), info)


def _read(frame: Frame, columns: Columns, surveys: dict[str, Survey], order: Order, info: DatasetInfo) -> dict[str, Any]:
    """All rows, in the order of time."""
    n_rows = len(order.ends)
    arrays: dict[str, Any] = {}
    start = 0
    for block in frame.blocks(columns.used()):
        part = read_block(block, columns, surveys, info)
        if len(block) == n_rows:  # all of them: nothing to gather
            arrays = part
            break
        _put(arrays, part, start, n_rows)
        start += len(block)
    if order.rows is not None:
        arrays = _sorted(arrays, order.rows)
    arrays |= call_functions(frame, columns, order)
    mark_ends(arrays, columns, surveys, order, slice(0, n_rows), frame.path)
    frame.forget()
    return arrays


def _put(arrays: dict[str, Any], part: dict[str, Any], start: int, n_rows: int) -> None:
    for name, values in part.items():
        if isinstance(values, dict):
            _put(arrays.setdefault(name, {}), values, start, n_rows)
            continue
        if name not in arrays:
            arrays[name] = np.empty((n_rows, *values.shape[1:]), values.dtype)
        arrays[name][start : start + len(values)] = values


def _sorted(arrays: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    return {name: _sorted(part, rows) if isinstance(part, dict) else part[rows] for name, part in arrays.items()}
