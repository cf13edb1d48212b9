"""Data that other libraries keep episode by episode: as arrays of rows, with the spaces that they suggest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import BLOCK_ROWS
from sb3_offline.datasets.sources.raw import RawSource, raw_from_metadata
from sb3_offline.datasets.sources.tables.deriving import derive_action_space, derive_observation_space
from sb3_offline.datasets.sources.tables.values import Survey


@dataclass(frozen=True)
class Episode:
    """
    One episode of T rows.

    :param observations: T or T + 1 of them, an array or arrays by key; T + 1 where the one after the last action was kept
    :param actions: (T, ...)
    :param rewards: (T,)
    :param terminated: whether its last row is a termination; otherwise it is a cut. Or (T,) flags of rows
    :param next_observations: T of them, where they are logged on their own
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool | np.ndarray
    next_observations: Any = None


def episodic_source(
    dataset_id: str, where: str, episodes: Callable[[], Iterator[Episode]], metadata: Mapping[str, Any]
) -> RawSource:
    """
    A source of episodes; what is read for its spaces is kept until its arrays are asked for.

    :param where: what messages name
    :param episodes: reads them, from the first one on
    :param metadata: as in :func:`~sb3_offline.datasets.sources.raw.raw_from_metadata`
    """
    kept: dict[str, Any] = {}

    def read() -> dict[str, Any]:
        arrays = kept or _rows(episodes(), where)
        found = dict(arrays)
        kept.clear()
        return found

    def derive(kind: str) -> spaces.Space:
        if not kept:
            kept.update(_rows(episodes(), where))
        return derive_space(kind, kept, where)

    def read_blocks(*_: Any) -> Iterator[dict[str, Any]]:
        kept.clear()
        yield from grouped(_arrays_of(one, number, where) for number, one in enumerate(episodes()))

    return raw_from_metadata(dataset_id, read, metadata, derive=derive, blocks=read_blocks)


def grouped(episodes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Several episodes' arrays as one block, of little more than so many rows as are checked at once."""
    waiting: list[dict[str, Any]] = []
    for arrays in episodes:
        waiting.append(arrays)
        if sum(len(one["actions"]) for one in waiting) >= BLOCK_ROWS:
            yield joined(waiting)
            waiting = []
    if waiting:
        yield joined(waiting)


def joined(episodes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The arrays of all episodes, one after the other; empty ones if there is none."""
    found = list(episodes)
    names = found[0] if found else ("observations", "next_observations", "actions", "rewards", "terminations", "truncations")
    return {name: _concatenated([one[name] for one in found]) if found else np.empty(0) for name in names}


def derive_space(kind: str, arrays: Mapping[str, Any], where: str) -> spaces.Space:
    """
    :param kind: "observation" or "action"
    :raises DatasetError: if bounds cannot follow from the arrays
    """
    values = arrays[f"{kind}s"]
    parts = values if isinstance(values, dict) else {"": values}
    surveys = {key: _survey(f"{kind}s", part, where) for key, part in parts.items()}
    if kind == "observation":
        names: Any = {key: (key,) for key in parts} if isinstance(values, dict) else ("",)
        return derive_observation_space(names, surveys)
    return derive_action_space(("",), {"": _as_choice(surveys[""])}, where)


def _survey(name: str, values: np.ndarray, where: str) -> Survey:
    if values.dtype.kind not in "biuf" or len(values) == 0:
        raise DatasetError(f"{where}: {name} hold no rows, or no numbers ({values.dtype}): no space follows from them.")
    rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(rows):
        raise DatasetError(
            f"{where}: {name} hold NaN or inf in {len(rows)} of {len(values)} rows, first in row {rows[0]}, counted over all "
            "episodes. Leave such episodes out, or mend their values."
        )
    return Survey(None, values.shape[1:], values.dtype, values.min(axis=0), values.max(axis=0))


def _as_choice(survey: Survey) -> Survey:
    """(n, 1) whole numbers are choices as (n,) are."""
    if survey.shape == (1,) and survey.dtype.kind in "biu":
        return Survey(None, (), survey.dtype, survey.low[0], survey.high[0])
    return survey


def _rows(episodes: Iterator[Episode], where: str) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {}
    for number, episode in enumerate(episodes):
        for name, values in _arrays_of(episode, number, where).items():
            columns.setdefault(name, []).append(values)
    if not columns:
        raise DatasetError(f"{where}: there are no episodes.")
    n = len(columns["actions"])
    if "next_observations" in columns and len(columns["next_observations"]) < n:
        raise DatasetError(f"{where}: some episodes have an observation after their last action, and others have none.")
    try:
        return {name: _concatenated(parts) for name, parts in columns.items()}
    except (ValueError, KeyError) as error:
        raise DatasetError(f"{where}: the episodes' arrays differ in shape or in keys ({error}).") from error


def _arrays_of(episode: Episode, number: int, where: str) -> dict[str, Any]:
    """The rows of one episode; lengths are compared here, where it can be named."""
    n = len(episode.actions)
    lengths = {len(part) for part in _parts(episode.observations)}
    following = {len(part) for part in _parts(episode.next_observations)}
    flags = np.asarray(episode.terminated)
    fit = lengths in ({n}, {n + 1}) and following in (set(), {n})
    if n == 0 or not fit or len(episode.rewards) != n or flags.size not in (1, n):
        raise DatasetError(
            f"{where}: episode {number} has {n} actions, {len(episode.rewards)} rewards and {sorted(lengths)} observations; "
            "as many observations as actions are needed, or one more, and at least one."
        )
    terminations = np.zeros(n, bool)
    terminations[-1 if flags.size == 1 and n > 1 else slice(None)] = flags.reshape(-1) if flags.size == n else flags.item()
    truncations = np.zeros(n, bool)
    truncations[-1] = not terminations[-1]
    arrays = {"actions": episode.actions, "rewards": episode.rewards, "terminations": terminations, "truncations": truncations}
    arrays["observations"] = steps_of(episode.observations, slice(0, n))
    if episode.next_observations is not None:
        arrays["next_observations"] = episode.next_observations
    elif lengths == {n + 1}:
        arrays["next_observations"] = steps_of(episode.observations, slice(1, n + 1))
    return arrays


def _parts(values: Any) -> list[Any]:
    if values is None:
        return []
    return list(values.values()) if isinstance(values, dict) else [values]


def steps_of(values: Any, steps: slice) -> Any:
    return {key: part[steps] for key, part in values.items()} if isinstance(values, dict) else values[steps]


def _concatenated(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        if any(part.keys() != parts[0].keys() for part in parts):
            raise KeyError("the keys of observations are not the same in all episodes")
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)
