"""One column of a table as a NumPy array: what is missing, or is not a number, is refused by column and row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_CATEGORIES = 256
_QUANTITY = re.compile(r"\s*(\[|\(\s*[-+]?[\d.]|[-+]?\d*[.,]\d)")  # how a fraction or a list of numbers begins


@dataclass(frozen=True)
class Survey:
    """
    What a column holds, over all rows read so far.

    :param categories: of texts and categorical columns, in the order of their codes
    :param shape: of one row's value
    :param dtype: of the values as they lie in the table; bool and whole numbers stay what they are
    :param low: (\\*shape) the least value
    :param high: (\\*shape) the greatest
    """

    categories: tuple[Any, ...] | None
    shape: tuple[int, ...]
    dtype: np.dtype
    low: np.ndarray
    high: np.ndarray

    def merged(self, other: Survey, name: str, where: str, start: int) -> Survey:
        """With the rows of the next block, of which the first is row ``start``."""
        if self.categories is not None and other.categories is not None:
            both = dict.fromkeys([*self.categories, *other.categories])
            return replace(self, categories=_within_limit(tuple(both), name, where))
        if self.shape != other.shape:
            raise DatasetError(
                f"{where}: the lists of column {name!r} differ in length: {self.shape} before row {start}, {other.shape} "
                "from there on. Each row needs as many numbers."
            )
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return replace(self, low=low, high=high, dtype=np.result_type(self.dtype, other.dtype))


def image_survey(shape: tuple[int, ...]) -> Survey:
    """Of bytes, without looking at them."""
    return Survey(None, shape, np.dtype(np.uint8), np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8))


def survey_column(column: pa.ChunkedArray, name: str, where: str, start: int = 0) -> Survey:
    """
    :param start: number of the column's first row, for messages
    :raises DatasetError: for a missing value, one that is not finite, lists of unequal length, or a type that is no number
    """
    categories = categories_of(column, name, where, start)
    if categories is not None:
        none = np.zeros(())
        return Survey(categories, (), np.dtype(np.int64), none, none)
    values = numbers(column, name, where, start)
    low, high = values.min(axis=0), values.max(axis=0)
    if values.dtype.kind == "f" and not np.isfinite(low + high).all():
        rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(rows):
            raise DatasetError(_missing(name, where, start + int(rows[0]), len(rows), len(values), "NaN or inf"))
    return Survey(None, values.shape[1:], values.dtype, low, high)


def categories_of(column: pa.ChunkedArray, name: str, where: str, start: int = 0) -> tuple[Any, ...] | None:
    """The distinct values of a text column, sorted, or those that a categorical column declares; None of any other."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        _refuse_nulls(column, name, where, start)
        chunks = column.unify_dictionaries().chunks
        return _within_limit(tuple(chunks[0].dictionary.to_pylist()) if chunks else (), name, where)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _refuse_nulls(column, name, where, start)
        found = tuple(sorted(pc.unique(column).to_pylist()))
        _refuse_quantities(column, found, name, where, start)
        return _within_limit(found, name, where)
    return None


def _refuse_quantities(column: pa.ChunkedArray, found: Sequence[str], name: str, where: str, start: int) -> None:
    """One value that is no number makes texts of all."""
    import pyarrow.compute as pc

    quantities = list(filter(_QUANTITY.match, found))
    if not quantities:
        return
    others = [text for text in found if not _QUANTITY.match(text) and not text.strip("+- ").isdigit()]
    beside = f", and {others[0]!r} in row {start + pc.index(column, others[0]).as_py()}" if others else ""
    raise DatasetError(
        f"{where}: column {name!r} holds numbers as text, such as {quantities[0]!r}{beside}. Make numbers of them (lists: "
        "list columns, which CSV cannot hold); if they are names, make the column categorical."
    )


def _within_limit(categories: tuple[Any, ...], name: str, where: str) -> tuple[Any, ...]:
    if len(categories) > _MOST_CATEGORIES:
        raise DatasetError(
            f"{where}: column {name!r} holds {len(categories)} different values that are no numbers, such as "
            f"{categories[0]!r}; {_MOST_CATEGORIES} categories are the most. Turn it into numbers first."
        )
    return categories


def codes(column: pa.ChunkedArray, categories: tuple[Any, ...]) -> np.ndarray:
    """(n,) int64: the place of each value among its categories."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return pc.index_in(column, value_set=pa.array(categories, column.type)).to_numpy().astype(np.int64)
    places = [  # of the distinct values: written out, long ones that repeat would take any memory
        pc.index_in(chunk.dictionary, value_set=pa.array(categories, column.type.value_type)).take(chunk.indices)
        for chunk in column.chunks
    ]
    return pa.chunked_array(places, pa.int32()).to_numpy().astype(np.int64)


def numbers(column: pa.ChunkedArray, name: str, where: str, start: int = 0) -> np.ndarray:
    """(n, ...) a column of numbers, bools, durations (in seconds) or lists of them, in its own type."""
    import pyarrow as pa

    kind = column.type
    _refuse_nulls(column, name, where, start)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy()
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy()
    if pa.types.is_duration(kind):
        return column.cast(pa.duration("ns")).cast(pa.int64()).to_numpy() / 1e9
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.concatenate([chunk.to_numpy_ndarray() for chunk in column.chunks])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(column, name, where, start)
    what = f"of type {kind}, no numbers" if not pa.types.is_null(kind) else "empty in every row"
    raise DatasetError(f"{where}: column {name!r} is {what}. Turn it into numbers first, or leave it out.")


def _lists(column: pa.ChunkedArray, name: str, where: str, start: int) -> np.ndarray:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).to_numpy()
    other = np.flatnonzero(lengths != lengths[0])
    if len(other):
        raise DatasetError(
            f"{where}: the lists of column {name!r} differ in length: {lengths[0]} in row {start}, {lengths[other[0]]} in row "
            f"{start + other[0]}. Each row needs as many numbers."
        )
    inner = pc.list_flatten(column)
    if inner.null_count and lengths[0]:
        row = int(np.flatnonzero(pc.is_null(inner).to_numpy())[0]) // int(lengths[0])
        raise DatasetError(_missing(name, where, start + row, None, len(column), "a missing value"))
    values = numbers(inner, name, where, start * int(lengths[0]))
    return values.reshape(len(column), int(lengths[0]), *values.shape[1:])


def _refuse_nulls(column: pa.ChunkedArray, name: str, where: str, start: int) -> None:
    import pyarrow.compute as pc

    missing = column.null_count
    if missing:
        row = start + int(np.flatnonzero(pc.is_null(column).to_numpy())[0])
        raise DatasetError(_missing(name, where, row, missing, len(column), "a missing value"))


def _missing(name: str, where: str, row: int, count: int | None, total: int, what: str) -> str:
    much = "" if count is None else f" ({count} of {total} rows)"
    return (
        f"{where}: column {name!r} holds {what} in row {row}{much}, counted from 0 in the table's own order. "
        "Fill such values, or drop the rows: where time is a column, the gap is then a cut."
    )
