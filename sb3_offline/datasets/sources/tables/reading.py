"""Arrays out of the columns of a table, block by block, as the spaces ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import MASK_NAMES, DatasetInfo
from sb3_offline.datasets.sources.tables.columns import Columns, Names, groups_of
from sb3_offline.datasets.sources.tables.frames import Frame
from sb3_offline.datasets.sources.tables.order import Order
from sb3_offline.datasets.sources.tables.values import Survey, codes, image_survey, numbers, survey_column
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
    n_rows = 0
    for block in frame.blocks(used):
        if len(block) == 0:
            continue
        for name in values:
            one = survey_column(block[name], name, frame.path, n_rows)
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
    return n_rows, found


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
    """(n, d) float32; a single column of more axes keeps its shape."""
    found = [surveys[name] for name in names]
    if len(names) == 1 and len(found[0].shape) > 1:
        return numbers(block[names[0]], names[0], "").astype(np.float32)
    widths = [int(np.prod(one.shape)) if one.categories is None else len(one.categories) for one in found]
    joined = np.zeros((len(block), sum(widths)), np.float32)
    start = 0
    for name, one, width in zip(names, found, widths, strict=True):
        if one.categories is None:
            joined[:, start : start + width] = numbers(block[name], name, "").reshape(len(block), width)
        else:
            joined[np.arange(len(block)), start + codes(block[name], one.categories)] = 1.0
        start += width
    return joined


def _actions(block: pa.Table, names: Names, surveys: Mapping[str, Survey], space: spaces.Space) -> np.ndarray:
    if _is_whole(space):
        return _whole(block, names, surveys)
    return _side_by_side(block, names, surveys).reshape(len(block), -1)


def _whole(block: pa.Table, names: Names, surveys: Mapping[str, Survey]) -> np.ndarray:
    """Whole numbers as they are, of categories their codes: (n, d), or as a single column has them."""
    parts = []
    for name in names:
        categories = surveys[name].categories
        if categories is not None:
            parts.append(codes(block[name], categories))
            continue
        values = numbers(block[name], name, "")
        rounded = values.dtype.kind == "f" and (values == np.rint(values)).all()  # a CSV may have 1.0
        parts.append(values.astype(np.int64) if rounded or values.dtype == bool else values)
    return parts[0] if len(parts) == 1 else np.column_stack([values.reshape(len(block), -1) for values in parts])


def mark_ends(arrays: dict[str, Any], columns: Columns, order: Order, rows: slice, where: str) -> None:
    """
    Set the terminations and truncations of sorted rows.

    :param rows: which of all sorted rows these are
    :raises DatasetError: for a termination that another row of its episode follows
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
    if columns.episode is not None or columns.time is not None or "truncations" in arrays:
        arrays["truncations"] = cuts
