"""Data that other libraries keep episode by episode: as arrays of rows, with the spaces that they suggest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.mapped import row_bytes_of, rows_at_once
from sb3_offline.datasets.sources.raw import RawSource, raw_from_metadata
from sb3_offline.datasets.sources.tables.deriving import derive_action_space, derive_observation_space
from sb3_offline.datasets.sources.tables.sizes import KEPT_BYTES
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
    A source of episodes.

    :param where: what messages name
    :param episodes: reads them, from the first one on
    :param metadata: as in :func:`~sb3_offline.datasets.sources.raw.raw_from_metadata`
    """

    def blocks() -> Iterator[dict[str, Any]]:
        return grouped((_arrays_of(one, number, where) for number, one in enumerate(episodes())), where)

    return source_of_blocks(dataset_id, where, blocks, metadata)


def source_of_blocks(
    dataset_id: str, where: str, blocks: Callable[[], Iterator[dict[str, Any]]], metadata: Mapping[str, Any]
) -> RawSource:
    """
    A source of rows in blocks, by our names; what is read for its spaces is kept until its arrays are asked for, if it is not
    large.

    :param where: what messages name
    :param blocks: reads them, from the first one on
    :param metadata: as in :func:`~sb3_offline.datasets.sources.raw.raw_from_metadata`
    """
    kept: list[dict[str, Any]] = []
    surveys: dict[str, dict[str, Survey]] = {}

    def read() -> dict[str, Any]:
        found = kept or list(blocks())
        if not found:
            raise DatasetError(f"{where}: there are no episodes.")
        arrays = joined(found, where)
        kept.clear()
        return arrays

    def derive(kind: str) -> spaces.Space:
        if not surveys:
            n_rows = n_bytes = 0
            for block in blocks():
                _survey_block(block, surveys, where, n_rows)
                n_rows += len(block["actions"])
                n_bytes += sum(part.nbytes for values in block.values() for part in _parts(values))
                if n_bytes <= KEPT_BYTES:
                    kept.append(block)
            if n_bytes > KEPT_BYTES:
                kept.clear()
        if not surveys:
            raise DatasetError(f"{where}: there are no episodes.")
        return _space_of(kind, surveys[f"{kind}s"], where)

    return raw_from_metadata(dataset_id, read, metadata, derive=derive, blocks=lambda *_: blocks())


def grouped(episodes: Iterable[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """Several episodes' arrays as one block, of little more than so many rows as are checked at once."""
    waiting: list[dict[str, Any]] = []
    for arrays in episodes:
        waiting.append(arrays)
        if sum(len(one["actions"]) for one in waiting) >= rows_at_once(row_bytes_of(arrays.values())):
            yield joined(waiting, where)
            waiting = []
    if waiting:
        yield joined(waiting, where)


def joined(episodes: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    """
    The arrays of all episodes, one after the other; empty ones if there is none.

    :raises DatasetError: if they differ in kind
    """
    if not episodes:
        names = ("observations", "next_observations", "actions", "rewards", "terminations", "truncations")
        return dict.fromkeys(names, np.empty(0))
    if any(one.keys() != episodes[0].keys() for one in episodes):
        raise DatasetError(f"{where}: some episodes have an observation after their last action, and others have none.")
    try:
        return {name: _concatenated([one[name] for one in episodes]) for name in episodes[0]}
    except (ValueError, KeyError) as error:
        raise DatasetError(f"{where}: the episodes' arrays differ in shape or in keys ({error}).") from error


def _survey_block(block: Mapping[str, Any], surveys: dict[str, dict[str, Survey]], where: str, start: int) -> None:
    """
    Take rows into account.

    :param surveys: of observations and actions, by key of a Dict space or by no key
    :param start: the number of rows before them
    """
    for name in ("observations", "actions"):
        values = block[name]
        known = surveys.setdefault(name, {})
        for key, part in (values if isinstance(values, dict) else {"": values}).items():
            one = _survey(name, part, where, start)
            known[key] = known[key].merged(one, name, where, start) if key in known else one


def _space_of(kind: str, surveys: Mapping[str, Survey], where: str) -> spaces.Space:
    if kind == "observation":
        names: Any = ("",) if "" in surveys else {key: (key,) for key in surveys}
        return derive_observation_space(names, surveys)
    return derive_action_space(("",), {"": _as_choice(surveys[""])}, where)


def _survey(name: str, values: np.ndarray, where: str, start: int) -> Survey:
    if values.dtype.kind not in "biuf" or len(values) == 0:
        raise DatasetError(f"{where}: {name} hold no rows, or no numbers ({values.dtype}): no space follows from them.")
    survey = Survey(None, values.shape[1:], values.dtype, values.min(axis=0), values.max(axis=0))
    if values.dtype.kind == "f" and not np.isfinite(survey.low + survey.high).all():
        rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
        if len(rows):
            raise DatasetError(
                f"{where}: {name} hold NaN or inf in row {start + rows[0]}, counted over all episodes. Leave such episodes "
                "out, or mend their values."
            )
    return survey


def _as_choice(survey: Survey) -> Survey:
    """(n, 1) whole numbers are choices as (n,) are."""
    if survey.shape == (1,) and survey.dtype.kind in "biu":
        return Survey(None, (), survey.dtype, survey.low[0], survey.high[0])
    return survey


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
