"""Rewards and ends that are functions of the frame, which sees all rows at once: it may take means, or what came before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.sources.tables.columns import Columns
from sb3_offline.datasets.sources.tables.frames import Frame
from sb3_offline.datasets.sources.tables.order import Order
from sb3_offline.datasets.sources.tables.values import is_list, numbers


class ByColumn(Mapping[str, np.ndarray]):
    """A table's columns as arrays in the order of time, each read when it is asked for; lists are vectors."""

    def __init__(self, frame: Frame, order: Order):
        self._frame, self._order = frame, order
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._frame.schema.names:
            raise KeyError(f"{name!r} is no column; there are {', '.join(self)}")
        if name not in self._read:
            column = self._frame.table([name])[name]
            lists = is_list(column.type)
            values = numbers(column, name, self._frame.path, optional=True) if lists else column.to_numpy()
            self._read[name] = values if self._order.rows is None else values[self._order.rows]
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._frame.schema.names)

    def __len__(self) -> int:
        return len(self._frame.schema.names)


def call_functions(frame: Frame, columns: Columns, order: Order) -> dict[str, np.ndarray]:
    """
    (n,) of each role that is a function, in the order of time. A pandas or polars frame is given as one of these.

    :raises DatasetError: if a function fails, or does not give one value a row
    """
    roles = columns.functions()
    if not roles:
        return {}
    table = _sorted_frame(frame, order)
    return {role: call_function(getattr(columns, role), role, table, frame.path, order.ends.shape) for role in roles}


def _sorted_frame(frame: Frame, order: Order) -> Any:
    own: Any = frame.own
    library = "" if own is None else type(own).__module__.partition(".")[0]
    if library == "pandas":
        return own if order.rows is None else own.iloc[order.rows]
    if library == "polars":
        own = own.collect() if type(own).__name__ == "LazyFrame" else own
        return own if order.rows is None else own[order.rows]
    return ByColumn(frame, order)


def call_function(function: Callable[[Any], Any], role: str, table: Any, where: str, shape: tuple[int, ...]) -> np.ndarray:
    """
    One value a row, as the user's function of all rows gives it.

    :raises DatasetError: if it fails, or gives anything else
    """
    try:
        values = np.asarray(function(table))
    except Exception as error:  # the user's code raises any kind
        raise DatasetError(f"{where}: the function for {role} failed: {type(error).__name__}: {error}") from error
    if values.shape != shape:
        raise DatasetError(
            f"{where}: the function for {role} gave an array of shape {values.shape}; one value a row is needed, "
            f"({shape[0]},)."
        )
    return values
