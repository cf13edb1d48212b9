"""Whatever holds numbers (arrays, tensors, frames, columns of one) as a NumPy array; else the reason why it is none."""

from __future__ import annotations

import decimal
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_offline.datasets.errors import DatasetError

_TRUE, _FALSE = ("true", "t", "yes", "y"), ("false", "f", "no", "n")
_RECTANGULAR = "give one rectangular array of floats, whole numbers or bools"
_KINDS = {
    "M": "are dates: give seconds since the first one, as floats",
    "m": "are durations: give seconds, as floats",
    "U": "are text: give numbers, one column for each category (one-hot) if there are few",
    "S": "are text: give numbers, one column for each category (one-hot) if there are few",
    "T": "are text: give numbers, one column for each category (one-hot) if there are few",
    "c": "are complex: give real and imaginary parts as two columns",
    "V": "are records: give one plain array",
}


def as_array(name: str, value: Any, where: str) -> np.ndarray:
    """
    An array of numbers or bools with one entry a row.

    :raises DatasetError: naming the key, the column of a frame, and the rows
    """
    if isinstance(value, Mapping):
        raise DatasetError(f"{where}: {name} is itself a mapping. SB3 takes no nested Dict spaces: put all keys on one level.")
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):  # a frame of pandas or polars
        named = value.items() if hasattr(value, "items") else zip(value.columns, value.get_columns(), strict=True)
        columns = [as_array(f"{name}, column {str(label)!r}", column, where) for label, column in named]
        return np.column_stack(columns) if columns else np.empty((len(value), 0))
    if type(value).__module__.startswith("scipy.sparse"):
        value = value.toarray()
    if isinstance(value, th.Tensor) and value.dtype == th.bfloat16:  # of which NumPy knows nothing
        value = value.float()
    missing = _missing_in(value) if not name.startswith("next_observations") else _missing_successors_in(value)
    if missing is not None and missing.any():
        return _with_gaps(name, value, missing, where)
    if callable(getattr(value, "to_numpy", None)) and not isinstance(value, np.ndarray):  # a column of a frame
        value = _numbers_of(np.asarray(value))
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever an object that is no array raises when it is asked for one
        raise DatasetError(f"{where}: {name} is not one rectangular array of numbers ({_why_not(value, error)}).") from error
    if array.dtype == object and not isinstance(value, np.ndarray):  # rows of which some hold None, and the like
        return as_array(name, array, where)
    if array.dtype.kind not in "biuf":
        reason = _why_text(array) or _KINDS.get(array.dtype.kind) or _why_objects(array)
        raise DatasetError(f"{where}: {name} has dtype {array.dtype}, not numbers. They {reason}.")
    if array.ndim == 0:
        raise DatasetError(f"{where}: {name} is a single value; one entry a row is needed.")
    return array


def _missing_in(value: Any) -> np.ndarray | None:
    """Where a masked array, or a column of a frame, has no value; NaN is a value. None if it cannot have such gaps."""
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.getmaskarray(value)
    if callable(getattr(value, "is_null", None)):  # polars, pyarrow
        return np.asarray(value.is_null())
    if callable(getattr(value, "isna", None)) and getattr(getattr(value, "dtype", None), "kind", "O") != "f":
        return np.asarray(value.isna())
    if callable(getattr(value, "isna", None)) and not isinstance(value.dtype, np.dtype):  # a nullable column of floats
        return np.asarray(value.isna())
    return None


def _missing_successors_in(value: Any) -> np.ndarray | None:
    """As :func:`_missing_in`, and where a list or an array of objects holds None; among arrays NaN is none, too."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim > 1:
        return np.frompyfunc(_is_missing, 1, 1)(value).astype(bool)
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1):
        nan = float if any(hasattr(entry, "__len__") for entry in value) else ()  # NumPy's float64 is one
        return np.array([_is_missing(entry) or (isinstance(entry, nan) and np.isnan(entry)) for entry in value], bool)
    return _missing_in(value)


def _is_missing(entry: Any) -> bool:
    return entry is None or type(entry).__name__ in ("NAType", "NaTType")


def _with_gaps(name: str, value: Any, missing: np.ndarray, where: str) -> np.ndarray:
    """Of next observations NaN where there is none, as of one that was not logged; gaps in other arrays are refused."""
    rows = np.flatnonzero(missing.reshape(len(missing), -1).any(axis=1))
    if not name.startswith("next_observations"):
        raise DatasetError(
            f"{where}: {name} has missing (masked or null) values in {len(rows)} of {len(missing)} rows, first in row "
            f"{rows[0]}. Drop such rows and mark the rows before them as truncations, or fill them in."
        )
    if missing.all():
        raise DatasetError(f"{where}: {name} are missing in every row. Leave them out.")
    if isinstance(value, np.ma.MaskedArray):
        return np.where(missing, np.nan, value.data.astype(np.float64))
    if missing.ndim > 1:
        return as_array(name, np.where(missing, np.nan, value).tolist(), where)
    entries: list[Any] = [None if gap else _plain(entry) for entry, gap in zip(value, missing, strict=True)]
    shape = np.shape(entries[int(missing.argmin())])
    blank = np.full(shape, np.nan) if shape else np.nan
    filled = [blank if gap else entry for entry, gap in zip(entries, missing, strict=True)]
    if shape:
        return as_array(name, filled, where).astype(np.float64)
    return as_array(name, _numbers_of(_objects(filled)), where).astype(np.float64)


def _plain(entry: Any) -> Any:
    """An entry of a column: pyarrow's scalars as Python's values, vectors as arrays."""
    entry = entry.as_py() if callable(getattr(entry, "as_py", None)) else entry
    return np.asarray(entry) if hasattr(entry, "__len__") and not isinstance(entry, (str, bytes)) else entry


def _objects(entries: list[Any]) -> np.ndarray:
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


def _numbers_of(array: np.ndarray) -> np.ndarray:
    """A column of Python objects, such as bools beside None or Decimals, as floats if they are all numbers."""
    if array.dtype != object or array.ndim != 1 or not all(map(_is_number, array)):
        return array
    return array.astype(np.float64)


def _is_number(entry: Any) -> bool:
    return isinstance(entry, (numbers.Real, decimal.Decimal, np.bool_))


def _why_text(array: np.ndarray) -> str | None:
    """What to do about words for true and false; None for anything else."""
    if array.dtype.kind not in "UST" or array.size == 0:
        return None
    words = {text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in np.unique(array)[:3]}
    true = sorted(word for word in words if word.strip().lower() in _TRUE)
    if not words <= {*true, *(word for word in words if word.strip().lower() in _FALSE)}:
        return None
    return f"are words for true and false, {', '.join(map(repr, sorted(words)))}: give bools, x == {(true or ['True'])[0]!r}"


def _why_objects(array: np.ndarray) -> str:
    """What is wrong with an array of objects, by its first entry that is no number."""
    lengths = [len(entry) if hasattr(entry, "__len__") else None for entry in array.reshape(-1)]
    for row, (entry, length) in enumerate(zip(array.reshape(-1), lengths, strict=True)):
        if _is_number(entry):
            continue
        if _is_missing(entry):
            return f"hold a missing value, first in row {row}: drop such rows, or fill them in"
        if isinstance(entry, (str, bytes)):
            return f"hold text, first in row {row} ({entry!r}): give numbers"
        if length is not None and length != lengths[0]:
            return f"differ in length, {lengths[0]} in row 0 and {length} in row {row}: {_RECTANGULAR}"
        if length is None:
            return f"hold a {type(entry).__name__}, first in row {row}: {_RECTANGULAR}"
    if any(length is not None for length in lengths):
        return f"are arrays in an array: numpy.stack makes them one; {_RECTANGULAR}"
    return "are numbers kept as Python objects: numpy.asarray(..., dtype=float) makes them an array"


def _why_not(value: Any, error: Exception) -> str:
    if type(value).__module__.partition(".")[0] == "h5py" and not value:
        return "its HDF5 file is closed: give the file's path, or the array itself, file[key][:]"
    if isinstance(value, (list, tuple)) and any(map(_is_missing, value)):
        row = next(row for row, entry in enumerate(value) if _is_missing(entry))
        return f"it holds a missing value, first in row {row}: drop such rows, or fill them in"
    if "inhomogeneous" in str(error):
        return f"its rows differ in length: {_RECTANGULAR}"
    return str(error)
