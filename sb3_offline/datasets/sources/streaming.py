"""Checked rows block by block, as they would be if all of them were read at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sb3_offline.datasets.checks.arrays import build_dataset, split_last_observation
from sb3_offline.datasets.checks.columns import as_column
from sb3_offline.datasets.checks.ends import episode_flags
from sb3_offline.datasets.checks.keys import END_NAMES, find_keys
from sb3_offline.datasets.errors import NoRowsLeft
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset

_FLAGS = ("terminations", "truncations", *END_NAMES)
_AHEAD = 2  # a row needs the observation of the one after it, and whether that one can be used, which the next but one tells


def checked_blocks(blocks: Iterator[Mapping[str, Any]], info: DatasetInfo) -> Iterator[OfflineDataset]:
    """
    Turn raw blocks, in the order of time, into checked ones. Without ``next_observations``, or masks of these, the last two
    rows of a block wait for the next block.

    :param blocks: arrays as :func:`~sb3_offline.datasets.checks.build_dataset` takes them, of at least one row
    :raises DatasetError: naming the key and the row, counted from the start of all blocks
    """
    waiting: dict[str, Any] | None = None
    start = 0
    for number, block in enumerate(blocks):
        with warnings.catch_warnings():
            if number:
                warnings.simplefilter("ignore")  # what the first block was warned of
            keys = find_keys(block, info.dataset_id)
            named = {name: as_column(name, block[key], info.dataset_id) for name, key in keys.items()}
            named = split_last_observation(named)
            if "next_observations" in named and ("action_masks" not in named or "next_action_masks" in named):
                yield _checked(named, info, start)
                start += len(named["rewards"])
                continue
            named = named if waiting is None else {name: _joined(waiting[name], part) for name, part in named.items()}
            n = len(named["rewards"])
            if n > _AHEAD:
                yield from _without_tail(named, info, start)
                start += n - _AHEAD
            waiting = {name: _rows(part, slice(max(n - _AHEAD, 0), n)) for name, part in named.items()}
    if waiting is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield _checked(waiting, info, start)
            except NoRowsLeft:
                return


def _without_tail(named: dict[str, Any], info: DatasetInfo, start: int) -> Iterator[OfflineDataset]:
    """All rows but the last two, which are there to be looked at."""
    terminations, cuts = episode_flags({name: named[name] for name in _FLAGS if name in named}, info.dataset_id)
    dropped = np.zeros(len(terminations), bool) if cuts is None else cuts & ~terminations
    dropped[-1] = not terminations[-1]  # nothing follows it here
    try:
        data = _checked(named, info, start)
    except NoRowsLeft:
        return
    n = len(data) - int((~dropped[-_AHEAD:]).sum())
    if n > 0:
        kept = replace(data, **data.arrays(slice(n)))
        card = {**info.card, "dropped_rows": int(dropped[:-_AHEAD].sum())}
        yield replace(kept, info=replace(info, card=card))


def _checked(named: dict[str, Any], info: DatasetInfo, start: int) -> OfflineDataset:
    try:
        return build_dataset(named, info)
    except NoRowsLeft:
        raise
    except ValueError as error:
        raise type(error)(f"{error} Rows are counted from row {start}.") from error


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return {key: np.concatenate([part, other[key]]) for key, part in one.items()}
    return np.concatenate([one, other])


def _rows(part: Any, rows: slice) -> Any:
    return {key: values[rows] for key, values in part.items()} if isinstance(part, dict) else part[rows]
