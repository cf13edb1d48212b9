"""One array as its space asks for it: type, shape, range; every defect is named with its key and row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_offline.datasets.checks.converting import as_array
from sb3_offline.datasets.checks.keys import BY_KEY
from sb3_offline.datasets.checks.precision import warn_of_lost_precision
from sb3_offline.datasets.checks.spaces import space_refused
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.images import with_channels_of
from sb3_offline.datasets.parts import join_parts

#: Actions may leave a bounded action space by this part of its span (rounding), and are then clipped.
ACTION_TOLERANCE = 1e-4
_SUCCESSORS = (
    ". Leave next_observations out, and they are taken from the following rows; in the last row of an episode write NaN, "
    "which is read as not logged"
)


def as_column(name: str, value: Any, where: str) -> np.ndarray | dict[str, np.ndarray]:
    """An array, or for observations by key the array of each key."""
    names = getattr(getattr(value, "dtype", None), "names", None)  # of a structured array
    if not isinstance(value, Mapping) and names is None:
        return as_array(name, value, where)
    if name not in BY_KEY:
        raise DatasetError(f"{where}: {name} is a mapping of arrays; only observations may be one. Give one array.")
    return {str(key): as_array(f"{name}[{key!r}]", value[key], where) for key in (value if names is None else names)}


def to_space(name: str, array: Any, space: spaces.Space, where: str) -> np.ndarray:
    """An array as the type and shape which its space asks for; a mapping as one structured array."""
    if isinstance(space, spaces.Dict):
        return _fit_parts(name, array, space, where)
    if isinstance(array, dict):
        raise DatasetError(f"{where}: {name} is a mapping of arrays, but the space is {space}: give one array.")
    if isinstance(space, spaces.Box):
        array = with_channels_of(space, array)
        array = _shaped(name, array, space, where)
        if space.dtype == np.uint8:
            return _whole_numbers(name, array, space, np.uint8, where)
        if name == "actions" and array.dtype.kind != "f":
            raise DatasetError(
                f"{where}: actions are whole numbers ({array.dtype}), but the action space is continuous, {space}. "
                "If they are continuous actions, convert them to float."
            )
        return finite_float32(name, array, where)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _whole_numbers(name, _shaped(name, array, space, where), space, np.int64, where)
    raise space_refused(name, space, where)


def _fit_parts(name: str, parts: Any, space: spaces.Dict, where: str) -> np.ndarray:
    wanted = list(space)
    if not isinstance(parts, dict) or parts.keys() != set(wanted) or name not in BY_KEY:
        found = f"the keys {sorted(parts)}" if isinstance(parts, dict) else "one array"
        raise DatasetError(
            f"{where}: {name} live in {space}: a mapping of arrays with the keys {wanted} is needed, not {found}."
        )
    return join_parts({key: to_space(f"{name}[{key!r}]", parts[key], space[key], where) for key in wanted})


def _shaped(name: str, array: np.ndarray, space: spaces.Space, where: str) -> np.ndarray:
    shape = tuple(space.shape or ())
    if array.shape[1:] == shape:
        return array
    if {array.shape[1:], shape} == {(), (1,)}:  # (n,) and (n, 1) say the same
        return array.reshape(len(array), *shape)
    wanted = ", ".join(["n", *map(str, shape)])
    hint = _one_hot(name, array, space) or (several_envs(array) if array.shape[2:] == shape else "")
    raise DatasetError(f"{where}: {name} have shape {array.shape}, but the space {space} asks for ({wanted}).{hint}")


def _one_hot(name: str, array: np.ndarray, space: spaces.Space) -> str:
    if not isinstance(space, spaces.Discrete) or array.ndim != 2 or array.shape[1] != space.n:
        return ""
    if not ((array == 0) | (array == 1)).all() or not (array.sum(axis=1) == 1).all():
        return ""
    first = f" + {space.start}" if space.start else ""
    return f" These are one-hot: give {name} as numbers, x.argmax(axis=1){first}."


def _counted_from_elsewhere(name: str, array: np.ndarray, low: Any, high: Any) -> str:
    """Values that fit, but for where they are counted from."""
    if np.ndim(low) or array.size == 0:
        return ""
    least, greatest = int(array.min()), int(array.max())
    if least == low or greatest - least != high - low:
        return ""
    too = ", of next_observations too" if name.startswith("observations") else ""
    counted = f"x {'-' if least > low else '+'} {abs(least - low)}"
    return f". They are {least} to {greatest}: give {counted}{too}, or a space that starts at {least}"


def several_envs(array: np.ndarray) -> str:
    """What to do with an array (time, envs, ...), as vector environments give it."""
    return (
        f" If these are {array.shape[0]} steps of {array.shape[1]} environments, turn every array into one environment after "
        "the other, numpy.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), and mark the last row of each as truncated."
    )


def _whole_numbers(name: str, array: np.ndarray, space: spaces.Space, dtype: type[np.integer], where: str) -> np.ndarray:
    if array.dtype.kind == "f":
        whole = bool((array == np.rint(array)).all())
        how = (
            f"{'These are whole: give' if whole else 'If they are rounded ones, give'} {name} as whole numbers, x.astype(int)."
        )
        raise DatasetError(f"{where}: {name} are {array.dtype}, but the space {space} holds whole numbers. {how}")
    low: Any
    high: Any
    if is_image_space(space) and array.dtype == np.uint8:  # any byte will do; larger whole numbers are not made of it
        return array
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.int64), space.high.astype(np.int64)
    elif isinstance(space, spaces.Discrete):
        low, high = space.start, space.start + space.n - 1
    elif isinstance(space, spaces.MultiDiscrete):
        low, high = space.start, space.start + space.nvec - 1
    else:
        low, high = 0, 1
    outside = (array < low) | (array > high)
    check_rows(
        outside,
        f"{where}: {name} leave the space {space}",
        _SUCCESSORS if name.startswith("next_observations") else _counted_from_elsewhere(name, array, low, high),
    )
    return array.astype(dtype, copy=False)


def within_bounds(actions: np.ndarray, space: spaces.Box, where: str) -> np.ndarray:
    if np.all(actions >= space.low) and np.all(actions <= space.high):
        return actions
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    excess = np.maximum(low - actions, actions - high)
    span = np.where(np.isfinite(high - low), high - low, 0.0)
    check_rows(
        excess > ACTION_TOLERANCE * span,
        f"{where}: actions leave the action space {space}",
        f", by up to {excess.max():.4g}. Actions are needed in the environment's own units",
    )
    return np.clip(actions, space.low, space.high).astype(np.float32, copy=False)


def vector(name: str, array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim == 1 or array.shape[1:] == (1,):
        return array.reshape(-1)
    hint = several_envs(array) if array.ndim == 2 else ""
    raise DatasetError(f"{where}: {name} have shape {array.shape}; one value a row is needed, (n,) or (n, 1).{hint}")


def flags(name: str, array: np.ndarray, where: str) -> np.ndarray:
    array = vector(name, array, where)
    if array.dtype != bool:
        check_rows((array != 0) & (array != 1), f"{where}: {name} are neither 0 nor 1", "")
    return array.astype(bool)


def finite_float32(name: str, array: np.ndarray, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 is inf, and refused as such
        rounded = array.astype(np.float32, copy=False)
    remedy = ". Drop such rows and mark the rows before them as truncations, or mend their values"
    if name.startswith("next_observations"):
        remedy = _SUCCESSORS
    check_rows(~np.isfinite(rounded), f"{where}: {name} hold NaN or inf (as float32)", remedy)
    warn_of_lost_precision(name, array, where)
    return rounded


def check_rows(bad: np.ndarray, what: str, detail: str) -> None:
    """:raises DatasetError: if any entry is bad, with the first row and the number of rows"""
    if not bad.any():
        return
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    raise DatasetError(f"{what} in {len(rows)} of {len(bad)} rows, first in row {rows[0]}{detail}.")
