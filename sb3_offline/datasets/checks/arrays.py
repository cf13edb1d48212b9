"""From raw arrays to a checked OfflineDataset: every defect is named with its key and row before training starts."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.images import with_channels_of
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES, DatasetInfo, OfflineDataset
from sb3_offline.datasets.parts import join_parts

REQUIRED = ("observations", "actions", "rewards", "terminations")
_BY_KEY = ("observations", "next_observations")
ALIASES = {"terminals": "terminations", "timeouts": "truncations"}

#: Names that other libraries use, too far from ours for difflib to see.
_FOREIGN_NAMES = {
    "obs": "observations",
    "states": "observations",
    "acts": "actions",
    "done": "terminations",
    "dones": "terminations",
    "terminated": "terminations",
    "truncated": "truncations",
    "next_obs": "next_observations",
    "next_states": "next_observations",
}

#: Actions may leave a bounded action space by this part of its span (rounding), and are then clipped.
ACTION_TOLERANCE = 1e-4


def build_dataset(arrays: Mapping[str, Any], info: DatasetInfo) -> OfflineDataset:
    """Check raw arrays against the spaces and turn them into an OfflineDataset.

    Without ``next_observations`` the following row's observation is taken inside an episode; the last row of an
    episode that was cut has none and is dropped, a terminal row keeps its place with ``valid_next`` False.

    :param arrays: the arrays by name (D4RL's ``terminals`` and ``timeouts`` are accepted), other keys are ignored;
        observations of a Dict space are a mapping of arrays by key
    :param info: the spaces to check against
    :raises DatasetError: naming the key, the row and the remedy
    """
    where = info.dataset_id
    named = canonical_names(arrays, where)
    columns: dict[str, Any] = {name: _as_column(name, value, where) for name, value in named.items()}
    _check_lengths(columns, where)

    observations = _fit("observations", columns["observations"], info.observation_space, where)
    actions = _fit("actions", columns["actions"], info.action_space, where)
    if isinstance(info.action_space, spaces.Box):
        actions = _within_bounds(actions, info.action_space, where)
    rewards = _finite_float32("rewards", _vector("rewards", columns["rewards"], where), where)
    terminations = _flags("terminations", columns["terminations"], where)
    truncations = np.zeros(len(rewards), dtype=bool)
    if "truncations" in columns:
        truncations = _flags("truncations", columns["truncations"], where) & ~terminations

    if "next_observations" not in columns:
        if "truncations" not in columns:
            warnings.warn(
                f"{where} has neither truncations nor next_observations: the next row's observation is taken as the "
                "next one, which is wrong wherever an episode was cut by a time limit.",
                stacklevel=2,
            )
        return _with_next_from_rows(info, observations, actions, rewards, terminations, truncations)

    valid_next = np.ones(len(rewards), dtype=bool)
    if "valid_next" in columns:
        valid_next = _flags("valid_next", columns["valid_next"], where)
        _check_rows(~valid_next & ~terminations, f"{where}: valid_next is False on rows that are not terminal", "")
    return OfflineDataset(
        info,
        observations,
        actions,
        rewards,
        _fit("next_observations", columns["next_observations"], info.observation_space, where),
        terminations,
        truncations,
        valid_next,
    )


def canonical_names(arrays: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The known arrays under our names.

    :raises DatasetError: for a missing or misspelt key, with the nearest match, or the same array given twice
    """
    named: dict[str, Any] = {}
    for key, value in arrays.items():
        name = ALIASES.get(key, key)
        if name not in ARRAY_NAMES:
            continue
        if name in named:
            raise DatasetError(f"{where}: {name} is given twice, also as {_alias_of(name)}. Keep one of them.")
        named[name] = value

    unknown = [str(key) for key in arrays if ALIASES.get(key, key) not in ARRAY_NAMES]
    for name in (*REQUIRED, *(n for n in ARRAY_NAMES if n not in REQUIRED)):
        if name in named:
            continue
        similar = _misspelling_of(name, unknown)
        if name in REQUIRED or similar is not None:
            raise DatasetError(_missing_key(name, similar, arrays, where))
    return named


def _alias_of(name: str) -> str:
    return next(alias for alias, meant in ALIASES.items() if meant == name)


def _misspelling_of(name: str, unknown: Iterable[str]) -> str | None:
    """The key among the unknown ones that was probably meant to be ``name``."""
    for key in unknown:
        plain = key.lower()
        if _FOREIGN_NAMES.get(plain) == name:
            return key
        candidates = [*ARRAY_NAMES, *ALIASES]
        nearest = difflib.get_close_matches(plain, candidates, n=1, cutoff=0.8)
        if nearest and ALIASES.get(nearest[0], nearest[0]) == name:
            return key
    return None


def _missing_key(name: str, similar: str | None, arrays: Mapping[str, Any], where: str) -> str:
    alias = {meant: f" (or {key!r})" for key, meant in ALIASES.items()}.get(name, "")
    if similar is None:
        remedy = f"The keys are {sorted(map(str, arrays))}."
        if name == "terminations":
            remedy += " It says where the task ended; all False if it never does."
    elif similar.lower() in ("done", "dones"):
        remedy = (
            f"There is {similar!r}, which does not tell a task that ended from one that was cut: "
            "give 'terminations' and 'truncations'."
        )
    else:
        remedy = f"There is {similar!r}: rename it to {name!r}."
    return f"{where}: the key {name!r}{alias} is missing. {remedy}"


def _as_column(name: str, value: Any, where: str) -> np.ndarray | dict[str, np.ndarray]:
    """An array, or for observations by key the array of each key."""
    names = getattr(getattr(value, "dtype", None), "names", None)  # of a structured array
    if not isinstance(value, Mapping) and names is None:
        return _as_array(name, value, where)
    if name not in _BY_KEY:
        raise DatasetError(f"{where}: {name} is a mapping of arrays; only observations may be one. Give one array.")
    return {str(key): _as_array(f"{name}[{key!r}]", value[key], where) for key in (value if names is None else names)}


def _as_array(name: str, value: Any, where: str) -> np.ndarray:
    if isinstance(value, Mapping):
        raise DatasetError(f"{where}: {name} is itself a mapping. SB3 takes no nested Dict spaces: put all keys on one level.")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a torch tensor that requires grad
        raise DatasetError(f"{where}: {name} is not one rectangular array of numbers ({error}).") from error
    if array.dtype.kind not in "biuf":
        raise DatasetError(
            f"{where}: {name} has dtype {array.dtype}, not numbers. Its rows may differ in length: give one "
            "rectangular array of floats, whole numbers or bools."
        )
    if array.ndim == 0:
        raise DatasetError(f"{where}: {name} is a single value; one entry a row is needed.")
    return array


def _check_lengths(columns: Mapping[str, Any], where: str) -> None:
    lengths: dict[str, int] = {}
    for name, column in columns.items():
        parts = column if isinstance(column, dict) else {}
        lengths |= {f"{name}[{key!r}]": len(part) for key, part in parts.items()} or {name: len(column)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DatasetError(f"{where}: the arrays differ in length: {listed}. Each needs one entry a row.")
    if lengths["rewards"] == 0:
        raise DatasetError(f"{where}: the data are empty: every array has 0 rows.")


def _fit(name: str, array: Any, space: spaces.Space, where: str) -> np.ndarray:
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
        return _finite_float32(name, array, where)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _whole_numbers(name, _shaped(name, array, space, where), space, np.int64, where)
    raise DatasetError(
        f"{where}: {name} live in {space}; Box, Discrete, MultiDiscrete and MultiBinary spaces are supported, and for "
        "observations a Dict of these, on one level. Flatten them."
    )


def _fit_parts(name: str, parts: Any, space: spaces.Dict, where: str) -> np.ndarray:
    wanted = list(space)
    if not isinstance(parts, dict) or parts.keys() != set(wanted) or name not in _BY_KEY:
        found = f"the keys {sorted(parts)}" if isinstance(parts, dict) else "one array"
        raise DatasetError(
            f"{where}: {name} live in {space}: a mapping of arrays with the keys {wanted} is needed, not {found}."
        )
    return join_parts({key: _fit(f"{name}[{key!r}]", parts[key], space[key], where) for key in wanted})


def _shaped(name: str, array: np.ndarray, space: spaces.Space, where: str) -> np.ndarray:
    shape = tuple(space.shape or ())
    if array.shape[1:] == shape:
        return array
    if {array.shape[1:], shape} == {(), (1,)}:  # (n,) and (n, 1) say the same
        return array.reshape(len(array), *shape)
    wanted = ", ".join(["n", *map(str, shape)])
    raise DatasetError(f"{where}: {name} have shape {array.shape}, but the space {space} asks for ({wanted}).")


def _whole_numbers(name: str, array: np.ndarray, space: spaces.Space, dtype: type[np.integer], where: str) -> np.ndarray:
    if array.dtype.kind == "f":
        raise DatasetError(f"{where}: {name} are {array.dtype}, but the space {space} holds whole numbers.")
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
    _check_rows(outside, f"{where}: {name} leave the space {space}", "")
    return array.astype(dtype, copy=False)


def _within_bounds(actions: np.ndarray, space: spaces.Box, where: str) -> np.ndarray:
    if np.all(actions >= space.low) and np.all(actions <= space.high):
        return actions
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    excess = np.maximum(low - actions, actions - high)
    span = np.where(np.isfinite(high - low), high - low, 0.0)
    _check_rows(
        excess > ACTION_TOLERANCE * span,
        f"{where}: actions leave the action space {space}",
        f", by up to {excess.max():.4g}. Actions are needed in the environment's own units",
    )
    return np.clip(actions, space.low, space.high).astype(np.float32, copy=False)


def _vector(name: str, array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim == 1 or array.shape[1:] == (1,):
        return array.reshape(-1)
    raise DatasetError(f"{where}: {name} have shape {array.shape}; one value a row is needed, (n,) or (n, 1).")


def _flags(name: str, array: np.ndarray, where: str) -> np.ndarray:
    array = _vector(name, array, where)
    if array.dtype != bool:
        _check_rows((array != 0) & (array != 1), f"{where}: {name} are neither 0 nor 1", "")
    return array.astype(bool)


def _finite_float32(name: str, array: np.ndarray, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond float32 is inf, and refused as such
        array = array.astype(np.float32, copy=False)
    remedy = ". Drop such rows and mark the rows before them as truncations, or mend their values"
    _check_rows(~np.isfinite(array), f"{where}: {name} hold NaN or inf (as float32)", remedy)
    return array


def _check_rows(bad: np.ndarray, what: str, detail: str) -> None:
    """:raises DatasetError: if any entry is bad, with the first row and the number of rows"""
    if not bad.any():
        return
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    raise DatasetError(f"{what} in {len(rows)} of {len(bad)} rows, first in row {rows[0]}{detail}.")


def _with_next_from_rows(
    info: DatasetInfo,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminations: np.ndarray,
    truncations: np.ndarray,
) -> OfflineDataset:
    """Next observations from the following row; the row before a dropped one becomes the episode's cut."""
    cut = truncations.copy()
    cut[-1] = not terminations[-1]
    next_observations = np.concatenate([observations[1:], observations[-1:]])
    next_observations[terminations] = observations[terminations]
    inside = ~(terminations | cut)
    truncations = inside & np.append(cut[1:], False)  # a row whose successor is dropped
    keep = ~cut
    if not keep.any():
        raise DatasetError(
            f"{info.dataset_id}: no row is left: without next_observations the last row of a cut episode cannot be "
            "used, and every episode here has one row."
        )
    dropped = int(cut.sum())
    if dropped:
        info = replace(info, card={**info.card, "dropped_rows": f"{dropped}: the last of each cut episode"})
    return OfflineDataset(
        info,
        observations[keep],
        actions[keep],
        rewards[keep],
        next_observations[keep],
        terminations[keep],
        truncations[keep],
        ~terminations[keep],
    )
