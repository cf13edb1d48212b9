"""From raw arrays to a checked OfflineDataset: every defect is named with its key and row before training starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.checks.columns import as_column, check_rows, finite_float32, flags, to_space, vector, within_bounds
from sb3_offline.datasets.checks.ends import are_rlds_steps, episode_flags, transitions_of_steps
from sb3_offline.datasets.checks.keys import find_keys, on_one_level, said_of_keys
from sb3_offline.datasets.checks.masks import masks_of
from sb3_offline.datasets.errors import DatasetError, DatasetWarning, NoRowsLeft
from sb3_offline.datasets.offline_dataset import INFERRED, DatasetInfo, OfflineDataset
from sb3_offline.networks.choices import CHOICE_SPACES


def build_dataset(arrays: Mapping[str, Any], info: DatasetInfo) -> OfflineDataset:
    """Check raw arrays against the spaces and turn them into an OfflineDataset.

    Without ``next_observations`` the following row's observation is taken inside an episode; the last row of an
    episode that was cut has none and is dropped, a terminal row keeps its place with ``valid_next`` False. The same holds of
    a last row whose next observation is NaN, and of a cut one that has ``action_masks`` but no ``next_action_masks``.
    ``observations`` of one episode may hold one entry more, the last one.

    :param arrays: the arrays by name, ours or another library's (:mod:`~sb3_offline.datasets.checks.keys`); of other keys
        those with an entry a row are warned of; observations of a Dict space are a mapping of arrays by key
    :param info: the spaces to check against
    :raises DatasetError: naming the key, the row and the remedy
    """
    where = info.dataset_id
    arrays = on_one_level(arrays)
    keys = find_keys(arrays, where)
    columns: dict[str, Any] = {name: as_column(name, arrays[key], where) for name, key in keys.items()}
    n_given = len(columns["rewards"])
    if are_rlds_steps([(arrays, columns)]):
        columns = transitions_of_steps(columns)
    elif "next_observations" not in columns:
        columns = split_last_observation(columns)
    _check_lengths(columns, where)
    said = said_of_keys(arrays, keys, n_given, where)
    if said:
        info = replace(info, card={**info.card, "reading": [*info.card.get("reading", []), *said]})

    observations = to_space("observations", columns["observations"], info.observation_space, where)
    actions = to_space("actions", columns["actions"], info.action_space, where)
    if isinstance(info.action_space, spaces.Box):
        actions = within_bounds(actions, info.action_space, where)
    rewards = finite_float32("rewards", vector("rewards", columns["rewards"], where), where)
    terminations, cuts = episode_flags(columns, where)
    truncations = np.zeros(len(rewards), dtype=bool) if cuts is None else cuts

    if "next_observations" in columns:
        successors, unlogged = _split_unlogged(
            columns["next_observations"], columns["observations"], terminations | truncations, info.observation_space
        )
        next_observations = to_space("next_observations", successors, info.observation_space, where)
        n_cut = int((unlogged & ~terminations).sum())
        if n_cut:
            warnings.warn(
                f"{where}: next_observations are NaN in {n_cut} rows that end an episode without a termination (None, or a "
                "state's number below 0, counts as NaN). Nothing can be learned from these rows, and they are left out: "
                "log what the env returned last.",
                DatasetWarning,
                stacklevel=2,
            )
    else:
        if cuts is None:
            warnings.warn(
                f"{where} has neither truncations nor next_observations: the next row's observation is taken as the "
                "next one, which is wrong wherever an episode was cut by a time limit.",
                DatasetWarning,
                stacklevel=2,
            )
        next_observations = np.concatenate([observations[1:], observations[-1:]])
        next_observations[terminations] = observations[terminations]
        unlogged = terminations | truncations
        unlogged[-1] = True
        info = replace(info, card={**info.card, "next_observations": INFERRED})

    valid_next = ~unlogged
    if "valid_next" in columns:
        given = flags("valid_next", columns["valid_next"], where)
        remedy = ". Give NaN as the next observation of such a row if its episode was cut there and none was logged"
        check_rows(~given & ~terminations, f"{where}: valid_next is False on rows that are not terminal", remedy)
        valid_next &= given
    masks, unmasked = masks_of(columns, actions, info.action_space, terminations, truncations, where)
    known = (observations, actions, rewards, next_observations, terminations, truncations, valid_next)
    return _without(OfflineDataset(info, *known, **masks), (unlogged | unmasked) & ~terminations)


def split_last_observation(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Observations of one episode that hold one entry more than every other array: the last is where it ended."""
    observations, n_rows = columns["observations"], len(columns["rewards"])
    parts = observations.values() if isinstance(observations, dict) else [observations]
    others = {len(column) for name, column in columns.items() if name != "observations"}
    ends = [np.asarray(columns[name]).reshape(-1)[:-1] for name in ("terminations", "truncations", "ends") if name in columns]
    if others != {n_rows} or {len(part) for part in parts} != {n_rows + 1} or any(end.any() for end in ends):
        return dict(columns)

    def steps(rows: slice) -> Any:
        if isinstance(observations, dict):
            return {key: part[rows] for key, part in observations.items()}
        return observations[rows]

    return {**columns, "observations": steps(slice(None, -1)), "next_observations": steps(slice(1, None))}


def _check_lengths(columns: Mapping[str, Any], where: str) -> None:
    lengths: dict[str, int] = {}
    for name, column in columns.items():
        parts = column if isinstance(column, dict) else {}
        lengths |= {f"{name}[{key!r}]": len(part) for key, part in parts.items()} or {name: len(column)}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        turned = _turned(columns)
        advice = f" Rows and columns of {' and '.join(turned)} have changed places: give x.T." if turned else ""
        raise DatasetError(f"{where}: the arrays differ in length: {listed}. Each needs one entry a row.{advice}")
    if lengths["rewards"] == 0:
        raise DatasetError(f"{where}: the data are empty: every array has 0 rows.")


def _turned(columns: Mapping[str, Any]) -> list[str]:
    """The arrays (d, n) among others of n rows, if that is all that makes them differ in length."""
    shapes = [part.shape for part in columns.values() if not isinstance(part, dict)]
    for n in dict.fromkeys([*(shape[0] for shape in shapes), *(shape[1] for shape in shapes if len(shape) == 2)]):
        others = {name: part for name, part in columns.items() if len(part) != n}
        if all(np.ndim(part) == 2 and part.shape[1] == n for part in others.values()):
            return list(others)
    return []


def _split_unlogged(successors: Any, observations: Any, ends: np.ndarray, space: spaces.Space) -> tuple[Any, np.ndarray]:
    """
    Next observations with the row's own where an episode ends and none was logged, and those rows, (n,) bool.
    """
    unlogged = unlogged_rows(successors, ends, space)
    parts = successors if isinstance(successors, dict) else {"": successors}
    if not unlogged.any() or type(successors) is not type(observations):
        return successors, unlogged
    own = observations if isinstance(observations, dict) else {"": observations}
    filled = {}
    for key, part in parts.items():
        filled[key] = part.copy()
        if key in own and own[key].shape == part.shape:  # else refused by its shape
            filled[key][unlogged] = own[key][unlogged]
            filled[key] = _in_type_of(own[key], filled[key])
    return (filled if isinstance(successors, dict) else filled[""]), unlogged


def unlogged_rows(successors: Any, ends: np.ndarray, space: spaces.Space) -> np.ndarray:
    """
    (n,) bool: rows that end an episode, the last one among them, and hold NaN as next observation, or a number below 0, such
    as -1, where states are counted from 0 or more.

    :param space: of the observations
    """
    ends = ends.copy()
    ends[-1] = True
    rows = np.flatnonzero(ends)
    unlogged = np.zeros(len(ends), dtype=bool)
    members = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in (successors if isinstance(successors, dict) else {"": successors}).items():
        if len(part) == len(ends):
            values = part[rows].reshape(len(rows), -1)
            none = np.isnan(values) if part.dtype.kind == "f" else np.zeros(values.shape, bool)
            if isinstance(members.get(key), CHOICE_SPACES) and np.min(getattr(members[key], "start", 0)) >= 0:
                none |= values < 0
            unlogged[rows[none.any(axis=1)]] = True
    return unlogged


def _in_type_of(own: np.ndarray, successors: np.ndarray) -> np.ndarray:
    """Whole numbers, which NaN among them had made fractions of."""
    if own.dtype.kind not in "biu" or successors.dtype.kind != "f":
        return successors
    with np.errstate(invalid="ignore"):  # NaN elsewhere, which is refused
        whole = successors.astype(own.dtype)
    return whole if (whole == successors).all() else successors


def _without(dataset: OfflineDataset, dropped: np.ndarray) -> OfflineDataset:
    """Without a next observation the last row of a cut episode cannot be used: the row before it becomes the cut."""
    n_dropped = int(dropped.sum())
    if n_dropped == 0:
        return dataset
    if n_dropped == len(dataset):
        raise NoRowsLeft(
            f"{dataset.info.dataset_id}: no row is left: without next_observations (and next_action_masks, where there are "
            "action_masks) the last row of a cut episode cannot be used, and every episode here has one row."
        )
    kept = ~dropped
    inside = ~(dataset.terminations | dropped)
    truncations = (dataset.truncations & kept) | (inside & np.append(dropped[1:], False))
    card = {**dataset.info.card, "dropped_rows": f"{n_dropped}: the last of each cut episode"}
    dataset = replace(dataset, info=replace(dataset.info, card=card), truncations=truncations)
    return replace(dataset, **dataset.arrays(kept))
