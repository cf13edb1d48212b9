"""Checked rows block by block, as they would be if all of them were read at once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from sb3_offline.datasets.checks.arrays import build_dataset, split_last_observation, unlogged_rows
from sb3_offline.datasets.checks.columns import as_column
from sb3_offline.datasets.checks.ends import are_rlds_steps, episode_flags, may_be_rlds_steps, transitions_of_steps
from sb3_offline.datasets.checks.keys import END_NAMES, find_keys, said_of_keys
from sb3_offline.datasets.errors import DatasetError, NoRowsLeft
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset

_FLAGS = ("terminations", "truncations", *END_NAMES)
_AHEAD = 2  # a row needs the one after it, and whether that one can be used, which the next but one tells


def checked_blocks(
    blocks: Iterator[Mapping[str, Any]], info: DatasetInfo, again: Callable[[], Iterator[Mapping[str, Any]]] | None = None
) -> Iterator[OfflineDataset]:
    """
    Turn raw blocks, in the order of time, into checked ones. The last two rows of a block wait for the next block.

    :param blocks: arrays as :func:`~sb3_offline.datasets.checks.build_dataset` takes them, of at least one row
    :param again: reads them once more, where all rows tell whether they are RLDS's steps; if not given, they are none
    :raises DatasetError: naming the key and the row, counted from the start of all blocks
    """
    waiting: dict[str, Any] | None = None
    step: dict[str, Any] | None = None  # the last one so far, whose transition the next one makes
    start, are_steps = 0, False
    said: set[str] = set()
    for number, block in enumerate(blocks):
        with _saying_once(said):
            keys, named = _by_our_names(block, info.dataset_id)
            if number == 0:
                info = _with_reading(info, said_of_keys(block, keys, len(named["rewards"]), info.dataset_id))
                if may_be_rlds_steps(block) and again is not None:
                    are_steps = are_rlds_steps((one, _by_our_names(one, info.dataset_id)[1]) for one in again())
            if are_steps:
                named = named if step is None else _joined(step, named, info.dataset_id)
                step = {name: _rows(part, slice(-1, None)) for name, part in named.items()}
                named = transitions_of_steps(named)
            else:
                named = split_last_observation(named)
            named = named if waiting is None else _joined(waiting, named, info.dataset_id)
            n = len(named["rewards"])
            ready = _without_tail(named, info, start) if n > _AHEAD else None
            start += max(n - _AHEAD, 0)
            waiting = {name: _rows(part, slice(max(n - _AHEAD, 0), n)) for name, part in named.items()}
        if ready is not None:
            yield ready
    if waiting is not None:
        with _saying_once(said):
            try:
                ready = _checked(waiting, info, start)
            except NoRowsLeft:
                return
        yield ready


def _by_our_names(block: Mapping[str, Any], where: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The keys of a block's known arrays, and these arrays, both by our names."""
    keys = find_keys(block, where)
    return keys, {name: as_column(name, block[key], where) for name, key in keys.items()}


@contextmanager
def _saying_once(said: set[str]) -> Iterator[None]:
    """What one block was warned of holds of the others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = re.sub(r"[\d,]+", "", str(warning.message))
        if text not in said:
            warnings.warn(warning.message, warning.category, stacklevel=4)
        said.add(text)


def _with_reading(info: DatasetInfo, said: list[str]) -> DatasetInfo:
    return replace(info, card={**info.card, "reading": [*info.card.get("reading", []), *said]}) if said else info


def _without_tail(named: dict[str, Any], info: DatasetInfo, start: int) -> OfflineDataset | None:
    """All rows but the last two, which are there to be looked at; None if none of them is left."""
    dropped = _dropped(named, info)
    try:
        data = _checked(named, info, start)
    except NoRowsLeft:
        return None
    n = len(data) - int((~dropped[-_AHEAD:]).sum())
    if n == 0:
        return None
    kept = replace(data, **data.arrays(slice(n)))
    card = {**info.card, "dropped_rows": int(dropped[:-_AHEAD].sum())}
    return replace(kept, info=replace(info, card=card))


def _dropped(named: Mapping[str, Any], info: DatasetInfo) -> np.ndarray:
    """(n,) bool: rows without their next observation or its masks, and the last one is here among them if it has none."""
    terminations, cuts = episode_flags({name: named[name] for name in _FLAGS if name in named}, info.dataset_id)
    dropped = np.zeros(len(terminations), bool) if cuts is None else cuts.copy()
    if "next_observations" in named and ("action_masks" not in named or "next_action_masks" in named):
        dropped = unlogged_rows(named["next_observations"], terminations | dropped, info.observation_space)
    else:
        dropped[-1] = True  # nothing follows it here
    return dropped & ~terminations


def _checked(named: dict[str, Any], info: DatasetInfo, start: int) -> OfflineDataset:
    try:
        return build_dataset(named, info)
    except NoRowsLeft:
        raise
    except ValueError as error:
        raise type(error)(f"{error} Rows are counted from row {start}.") from error


def _joined(one: Any, other: Any, where: str) -> Any:
    """:raises DatasetError: if a block has other arrays than those before it, or of another shape"""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            raise DatasetError(f"{where}: only some of the episodes have all of {', '.join(sorted({*one, *other}))}.")
        return {key: _joined(part, other[key], where) for key, part in one.items()}
    try:
        return np.concatenate([one, other])
    except ValueError as error:
        raise DatasetError(f"{where}: the episodes' arrays differ in shape ({error}).") from error


def _rows(part: Any, rows: slice) -> Any:
    return {key: values[rows] for key, values in part.items()} if isinstance(part, dict) else part[rows]
