"""One column of a table as a NumPy array: what is missing, or is not a number, is refused by column and row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_CATEGORIES = 256
_QUANTITY = re.compile(r"\s*(\[|\(\s*[-+]?[\d.]|[-+]?\d*[.,]\d)")  # how a fraction or a list of numbers begins
_WHOLE = re.compile(r"\s*[-+]?[0-9]{1,18}(\.0*)?\s*")  # of 64 bits


@dataclass(frozen=True)
class Survey:
    """
    What a column holds, over all rows read so far.

    :param categories: of texts that are no whole numbers and of categorical columns, in the order of their codes
    :param shape: of one row's value
    :param dtype: of the values as they lie in the table; bool and whole numbers stay what they are
    :param low: (\\*shape) the least value
    :param high: (\\*shape) the greatest
    :param missing: rows that hold none, where that may be
    :param declared: whether the categories' order is the column's own; texts are sorted
    """

    categories: tuple[Any, ...] | None
    shape: tuple[int, ...]
    dtype: np.dtype
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    declared: bool = False

    @property
    def empty(self) -> bool:
        """Whether no row holds anything, so that neither shape nor categories are known."""
        return self.categories is None and self.dtype.kind == "f" and bool(np.isnan(self.low).all())

    def merged(self, other: Survey, name: str, where: str, start: int) -> Survey:
        """With the rows of the next block, of which the first is row ``start``."""
        missing = np.concatenate([self.missing, other.missing])
        if self.empty or other.empty:
            return replace(other if self.empty else self, missing=missing)
        if self.categories is not None and other.categories is not None:
            return replace(self, categories=joint_categories(self, other, name, where), missing=missing)
        if self.categories is not None or other.categories is not None:
            place = f"before row {start}" if self.categories is None else f"from row {start} on"
            text = [*(self.categories or ()), *(other.categories or ())][0]
            raise _are_numbers(name, where, f" {place}, but elsewhere {text!r}")
        if self.shape != other.shape:
            raise DatasetError(
                f"{where}: the lists of column {name!r} differ in length: {self.shape} before row {start}, {other.shape} "
                "from there on. Each row needs as many numbers."
            )
        low, high = np.fmin(self.low, other.low), np.fmax(self.high, other.high)
        return replace(self, low=low, high=high, dtype=np.result_type(self.dtype, other.dtype), missing=missing)


def joint_categories(one: Survey, other: Survey, name: str, where: str) -> tuple[Any, ...]:
    """Those of both, in the order of the first where that is the column's own."""
    both = dict.fromkeys([*(one.categories or ()), *(other.categories or ())])
    return _within_limit(tuple(both) if one.declared or other.declared else tuple(sorted(both)), name, where)


def image_survey(shape: tuple[int, ...]) -> Survey:
    """Of bytes, without looking at them."""
    return Survey(None, shape, np.dtype(np.uint8), np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8))


def survey_column(column: pa.ChunkedArray, name: str, where: str, start: int = 0, optional: bool = False) -> Survey:
    """
    :param start: number of the column's first row, for messages
    :param optional: whether values may be missing, or NaN
    :raises DatasetError: for a missing value, one that is not finite, lists of unequal length, or a type that is no number
    """
    import pyarrow as pa

    if is_categorical(column) and not are_whole_texts(column):
        missing = _missing_rows(column)
        if not optional:
            _refuse(missing, name, where, start, "a missing value")
        found, none = categories_of(column, name, where, start), np.zeros(())
        rows, declared = start + np.flatnonzero(missing), pa.types.is_dictionary(column.type)
        return Survey(found, (), np.dtype(np.int64), none, none, rows, declared)
    values = numbers(column, name, where, start, optional)
    survey = Survey(None, values.shape[1:], values.dtype, values.min(axis=0), values.max(axis=0))
    if values.dtype.kind != "f" or np.isfinite(survey.low + survey.high).all():
        return survey
    flat = values.reshape(len(values), -1)
    missing = np.isnan(flat).any(axis=1) & ~np.isinf(flat).any(axis=1) & optional
    _refuse(~np.isfinite(flat).all(axis=1) & ~missing, name, where, start, "NaN or inf")
    low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
    return replace(survey, low=low, high=high, missing=start + np.flatnonzero(missing))


def is_categorical(column: pa.ChunkedArray) -> bool:
    """Whether a column holds texts or categories."""
    import pyarrow as pa

    return any(is_one(column.type) for is_one in (pa.types.is_dictionary, pa.types.is_string, pa.types.is_large_string))


def are_whole_texts(column: pa.ChunkedArray) -> bool:
    """Whether a column holds texts that are whole numbers, or no text at all; of a categorical column they are names."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return False
    return pc.all(pc.match_substring_regex(column, f"^{_WHOLE.pattern}$"), min_count=0).as_py()


def whole_numbers_of(categories: Sequence[Any]) -> np.ndarray | None:
    """(k,) int64: the numbers that categories are, also as texts; None if not all of them are whole numbers."""
    texts = [str(int(each)) if isinstance(each, bool) else str(each) for each in categories]
    if not all(map(_WHOLE.fullmatch, texts)):
        return None
    return np.array([int(text.partition(".")[0]) for text in texts], np.int64)


def categories_of(column: pa.ChunkedArray, name: str, where: str, start: int = 0) -> tuple[Any, ...]:
    """The distinct values of a text column, sorted, or those that a categorical column declares."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        kind = column.type.value_type
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            raise DatasetError(
                f"{where}: column {name!r} holds categories of type {kind}, as pandas.cut makes them. Name them, "
                "x.cat.rename_categories(str), or give their numbers, x.cat.codes."
            )
        chunks = column.unify_dictionaries().chunks
        return _within_limit(tuple(chunks[0].dictionary.to_pylist()) if chunks else (), name, where)
    found = tuple(sorted(pc.unique(column.drop_null()).to_pylist()))
    _refuse_quantities(column, found, name, where, start)
    return _within_limit(found, name, where)


def _refuse_quantities(column: pa.ChunkedArray, found: Sequence[str], name: str, where: str, start: int) -> None:
    """One value that is no number makes texts of all: of fractions, or of whole numbers that are most of the texts."""
    import pyarrow.compute as pc

    quantities, whole = list(filter(_QUANTITY.match, found)), list(filter(_WHOLE.fullmatch, found))
    if not quantities and 2 * len(whole) <= len(found):
        return
    others = [text for text in found if not _QUANTITY.match(text) and not _WHOLE.fullmatch(text)]
    beside = f", and {others[0]!r} in row {start + pc.index(column, others[0]).as_py()}" if others else ""
    raise _are_numbers(name, where, f", such as {(quantities or whole)[0]!r}{beside}")


def _are_numbers(name: str, where: str, which: str) -> DatasetError:
    return DatasetError(
        f"{where}: column {name!r} holds numbers as text{which}. Make numbers of them (lists: list columns, which CSV cannot "
        "hold); if they are names, make the column categorical."
    )


def _within_limit(categories: tuple[Any, ...], name: str, where: str) -> tuple[Any, ...]:
    if len(categories) > _MOST_CATEGORIES:
        raise DatasetError(
            f"{where}: column {name!r} holds {len(categories)} different values that are no numbers, such as "
            f"{categories[0]!r}; {_MOST_CATEGORIES} categories are the most. Turn it into numbers first."
        )
    return categories


def codes(column: pa.ChunkedArray, categories: tuple[Any, ...]) -> np.ndarray:
    """(n,) the place of each value among its categories: int64, or float64 with NaN where it is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        places = pa.chunked_array(
            [  # of the distinct values: written out, long ones that repeat would take any memory
                pc.index_in(chunk.dictionary, value_set=pa.array(categories, column.type.value_type)).take(chunk.indices)
                for chunk in column.chunks
            ],
            pa.int32(),
        )
    else:
        places = pc.index_in(column, value_set=pa.array(categories, column.type))
    return places.to_numpy().astype(np.float64 if places.null_count else np.int64)


def numbers(column: pa.ChunkedArray, name: str, where: str, start: int = 0, optional: bool = False) -> np.ndarray:
    """
    (n, ...) a column of numbers, bools, durations (in seconds) or lists of them, in its own type; of texts that are whole
    numbers int64.

    :param optional: whether values may be missing; such ones are NaN, and (n,) where no row has any
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, missing = column.type, _missing_rows(column)
    if not optional or isinstance(kind, pa.FixedShapeTensorType):
        _refuse(missing, name, where, start, "a missing value")
    if pa.types.is_boolean(kind):
        return column.cast(pa.uint8()).to_numpy() if missing.any() else column.to_numpy()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy()
    if is_categorical(column) and are_whole_texts(column):
        plain = pc.replace_substring_regex(column, r"^\s*\+?|(\.0*)?\s*$", "")
        return plain.cast(pa.int64()).to_numpy()
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy()
    if pa.types.is_duration(kind):
        return column.cast(pa.duration("ns")).cast(pa.int64()).to_numpy() / 1e9
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.concatenate([chunk.to_numpy_ndarray() for chunk in column.chunks])
    if is_list(kind):
        return _lists(column, name, where, start, optional)
    what = f"of type {kind}, no numbers" if not pa.types.is_null(kind) else "empty in every row"
    raise DatasetError(f"{where}: column {name!r} is {what}. Turn it into numbers first, or leave it out.")


def is_list(kind: pa.DataType) -> bool:
    """Whether each row of a column holds several values."""
    import pyarrow as pa

    return any(is_one(kind) for is_one in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _lists(column: pa.ChunkedArray, name: str, where: str, start: int, optional: bool) -> np.ndarray:
    import pyarrow.compute as pc

    there = ~_missing_rows(column)
    if not there.any():
        return np.full(len(column), np.nan)
    lengths = pc.list_value_length(column).to_numpy()
    first = int(there.argmax())
    size = int(lengths[first])
    other = np.flatnonzero(there & (lengths != size))
    if len(other):
        raise DatasetError(
            f"{where}: the lists of column {name!r} differ in length: {size} in row {start + first}, {int(lengths[other[0]])} "
            f"in row {start + other[0]}. Each row needs as many numbers."
        )
    inner = pc.list_flatten(column)  # of the rows that are there
    if not optional and size:
        _refuse(np.any(_missing_rows(inner).reshape(-1, size), axis=1), name, where, start, "a missing value")
    found = numbers(inner, name, where, start * size, optional)
    found = found.reshape(int(there.sum()), size, *found.shape[1:])
    if there.all():
        return found
    values = np.full((len(column), *found.shape[1:]), np.nan)
    values[there] = found
    return values


def _missing_rows(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) bool"""
    import pyarrow.compute as pc

    return pc.is_null(column).to_numpy() if column.null_count else np.zeros(len(column), bool)


def _refuse(bad: np.ndarray, name: str, where: str, start: int, what: str) -> None:
    """:raises DatasetError: if any row is bad"""
    rows = np.flatnonzero(bad)
    if len(rows):
        raise DatasetError(
            f"{where}: column {name!r} holds {what} in row {start + rows[0]} ({len(rows)} of {len(bad)} rows), counted from 0 "
            "in the table's own order. Fill such values, or drop the rows: where time is a column, the gap is then a cut."
        )
