"""Arrays out of the columns of a table, block by block, as the spaces ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.checks.precision import may_lose_precision
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import MASK_NAMES, DatasetInfo
from sb3_offline.datasets.sources.tables.columns import Columns, Names, groups_of
from sb3_offline.datasets.sources.tables.frames import Frame
from sb3_offline.datasets.sources.tables.order import Order
from sb3_offline.datasets.sources.tables.values import (
    Survey,
    codes,
    image_survey,
    joint_categories,
    numbers,
    survey_column,
    whole_numbers_of,
)
from sb3_offline.networks.choices import CHOICE_SPACES

if TYPE_CHECKING:
    import pyarrow as pa

_PLAIN = ("rewards", "terminations", "truncations", "valid_next")


def survey(frame: Frame, columns: Columns) -> tuple[int, dict[str, Survey]]:
    """
    One pass over all rows.

    :return: how many rows there are, and what each used column holds; episode and time are left to the sorting
    :raises DatasetError: for missing values, by column and row
    """
    keys = {columns.episode, columns.time}
    found = {name: image_survey(camera.shape) for name, camera in frame.cameras.items()}
    used = [name for name in columns.used() if name not in found]
    values = [name for name in used if name not in keys or name in _value_names(columns)]
    optional = columns.optional()
    n_rows = 0
    for block in frame.blocks(used):
        for name in values:
            one = survey_column(block[name], name, frame.path, n_rows, name in optional)
            found[name] = found[name].merged(one, name, frame.path, n_rows) if name in found else one
        n_rows += len(block)
    if n_rows == 0:
        raise DatasetError(f"{frame.path}: the table has no rows.")
    for role in _PLAIN:
        name = getattr(columns, role)
        categories = found[name].categories if isinstance(name, str) else None
        if categories is not None:
            raise DatasetError(
                f"{frame.path}: column {name!r} holds {categories[0]!r} and the like, which are no {role}. Give a function of "
                "the frame, which turns them into numbers."
            )
    for name in optional:
        if found[name].empty:
            raise DatasetError(f"{frame.path}: column {name!r}, of next_observations, is empty in every row. Leave it out.")
    return n_rows, found | _shared_categories(columns, found, frame.path)


def _shared_categories(columns: Columns, found: Mapping[str, Survey], where: str) -> dict[str, Survey]:
    """The surveys of observations and next observations that are categorical: one code must mean the same in both."""
    shared: dict[str, Survey] = {}
    following = groups_of(columns.next_observations)
    for key, names in groups_of(columns.observations).items():
        for name, other in zip(names, following.get(key, ()), strict=False):  # unequal ones are refused by their shape
            one, two = found[name], found[other]
            if one.categories is not None and two.categories is not None:
                both = joint_categories(one, two, name, where)
                shared |= {name: replace(one, categories=both), other: replace(two, categories=both)}
    return shared


def _value_names(columns: Columns) -> set[Any]:
    """What is read as numbers; a column of it may be the time, too."""
    parts = [*groups_of(columns.observations).values(), columns.actions, *groups_of(columns.next_observations).values()]
    parts += [getattr(columns, role) or () for role in MASK_NAMES]
    return {name for part in parts for name in part} | {getattr(columns, role) for role in _PLAIN}


def read_block(block: pa.Table, columns: Columns, surveys: Mapping[str, Survey], info: DatasetInfo) -> dict[str, Any]:
    """The arrays of some rows that are columns of the table (not functions of it), unsorted."""
    seen = info.observation_space
    arrays: dict[str, Any] = {"observations": _observations(block, columns.observations, surveys, seen)}
    if columns.next_observations is not None:
        arrays["next_observations"] = _observations(block, columns.next_observations, surveys, seen)
    arrays["actions"] = _actions(block, columns.actions, surveys, info.action_space)
    for role in _PLAIN:
        name = getattr(columns, role)
        if isinstance(name, str):
            arrays[role] = numbers(block[name], name, "")
    for role in MASK_NAMES:
        if getattr(columns, role) is not None:
            arrays[role] = np.column_stack([numbers(block[name], name, "") for name in getattr(columns, role)])
    return arrays


def _observations(block: pa.Table, names: Names | dict[str, Names], surveys: Mapping[str, Survey], space: spaces.Space) -> Any:
    spaces_by_key = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    parts = {
        key: (_whole if _is_whole(spaces_by_key.get(key)) else _side_by_side)(block, part, surveys)
        for key, part in groups_of(names).items()
    }
    return parts.get("", parts)


def _is_whole(space: spaces.Space | None) -> bool:
    """Whether whole numbers live in a space: choices, or bytes."""
    return isinstance(space, CHOICE_SPACES) or (isinstance(space, spaces.Box) and space.dtype == np.uint8)


def _side_by_side(block: pa.Table, names: Names, surveys: Mapping[str, Survey]) -> np.ndarray:
    """
    (n, d) float32, or float64 where that may be too coarse, which the checks find out; a single column of more axes keeps its
    shape. What is missing is NaN.
    """
    found = [surveys[name] for name in names]
    coarse = any(one.categories is None and may_lose_precision(one.dtype, one.low, one.high) for one in found)
    kind = np.float64 if coarse else np.float32
    if len(names) == 1 and len(found[0].shape) > 1:
        return _numbers(block, names[0], found[0]).astype(kind)
    widths = [int(np.prod(one.shape)) if one.categories is None else len(one.categories) for one in found]
    joined = np.zeros((len(block), sum(widths)), kind)
    start = 0
    for name, one, width in zip(names, found, widths, strict=True):
        if one.categories is None:
            joined[:, start : start + width] = _numbers(block, name, one).reshape(len(block), width)
        else:
            chosen = codes(block[name], one.categories)
            missing = np.isnan(chosen)
            joined[np.arange(len(block)), start + np.where(missing, 0, chosen).astype(np.int64)] = 1.0
            joined[missing, start : start + width] = np.nan
        start += width
    return joined


def _numbers(block: pa.Table, name: str, survey: Survey) -> np.ndarray:
    """(n, \\*shape) as the survey of all rows found them."""
    values = numbers(block[name], name, "", optional=len(survey.missing) > 0)
    if values.shape[1:] == survey.shape:
        return values
    return np.full((len(block), *survey.shape), np.nan)  # no row here has any


def _actions(block: pa.Table, names: Names, surveys: Mapping[str, Survey], space: spaces.Space) -> np.ndarray:
    if _is_whole(space):
        return _whole(block, names, surveys)
    return _side_by_side(block, names, surveys).reshape(len(block), -1)


def _whole(block: pa.Table, names: Names, surveys: Mapping[str, Survey]) -> np.ndarray:
    """
    Whole numbers as they are, of categories that are none their codes: (n, d), or as a single column has them. A column of
    which a row is missing is float64 in all blocks.

    :raises DatasetError: for fractions
    """
    parts = []
    for name in names:
        one = surveys[name]
        values = _numbers(block, name, one) if one.categories is None else _numbers_of_codes(block[name], one.categories)
        if len(one.missing):
            parts.append(values.astype(np.float64))
            continue
        if values.dtype.kind == "f" and not (values == np.rint(values)).all():  # a CSV may have 1.0
            fraction = values[values != np.rint(values)][0]
            raise DatasetError(f"column {name!r} holds {fraction:g}, where its space is of whole numbers.")
        parts.append(values.astype(np.int64) if values.dtype.kind in "fb" else values)
    return parts[0] if len(parts) == 1 else np.column_stack([values.reshape(len(block), -1) for values in parts])


def _numbers_of_codes(column: pa.ChunkedArray, categories: tuple[Any, ...]) -> np.ndarray:
    """(n,) int64 what categories are that are whole numbers, of others their codes; float64 with NaN where one is missing."""
    chosen, known = codes(column, categories), whole_numbers_of(categories)
    if known is None or len(known) == 0:
        return chosen
    missing = np.isnan(chosen)
    values = known[np.where(missing, 0, chosen).astype(np.int64)]
    return np.where(missing, np.nan, values) if missing.any() else values


def mark_ends(
    arrays: dict[str, Any], columns: Columns, surveys: Mapping[str, Survey], order: Order, rows: slice, where: str
) -> None:
    """
    Set the terminations and truncations of sorted rows.

    :param rows: which of all sorted rows these are
    :raises DatasetError: for a termination that another row of its episode follows, or a row of which a next observation is
        missing although it ends no episode
    """
    ends, gaps = order.ends[rows], order.gaps[rows]
    if isinstance(columns.terminations, bool):
        arrays["terminations"] = ends.copy() if columns.terminations else np.zeros(len(ends), bool)
    terminal = np.asarray(arrays["terminations"]).reshape(len(ends), -1)[:, 0] != 0
    early = np.flatnonzero(terminal & ~ends)
    if columns.episode is not None and len(early):
        row = rows.start + early[0]
        raise DatasetError(
            f"{where}: {len(early)} rows are terminations, but more rows of the same {columns.episode} follow, first in row "
            f"{row if order.rows is None else order.rows[row]} of the table. Only an episode's last row may be one: give "
            '"terminations" as a function that keeps the last one, or the column that tells such episodes apart.'
        )
    cuts = (ends | gaps) & ~terminal
    if "truncations" in arrays:
        cuts |= np.asarray(arrays["truncations"]).reshape(len(ends), -1)[:, 0] != 0
    _refuse_missing_inside(columns, surveys, order, rows, terminal | cuts, where)
    if columns.episode is not None or columns.time is not None or "truncations" in arrays:
        arrays["truncations"] = cuts


def _refuse_missing_inside(
    columns: Columns, surveys: Mapping[str, Survey], order: Order, rows: slice, ends: np.ndarray, where: str
) -> None:
    missing = {name: surveys[name].missing for name in columns.optional() if len(surveys[name].missing)}
    if not missing:
        return
    inside = rows.start + np.flatnonzero(~ends)
    inside = inside if order.rows is None else order.rows[inside]
    for name, found in missing.items():
        bad = np.intersect1d(found, inside)
        if len(bad):
            raise DatasetError(
                f"{where}: column {name!r} holds no next observation in row {bad[0]} ({len(bad)} rows), counted from 0 in the "
                "table's own order, which ends no episode and is followed by no cut. Fill it, mark the row in truncations, or "
                "leave next_observations out of columns=: they are then those of the following rows."
            )
