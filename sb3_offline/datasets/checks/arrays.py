"""From raw arrays to a checked OfflineDataset: every defect is named with its key and row before training starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.checks.columns import as_column, check_rows, finite_float32, flags, to_space, vector, within_bounds
from sb3_offline.datasets.checks.keys import canonical_names
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset


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
    columns: dict[str, Any] = {name: as_column(name, value, where) for name, value in named.items()}
    _check_lengths(columns, where)

    observations = to_space("observations", columns["observations"], info.observation_space, where)
    actions = to_space("actions", columns["actions"], info.action_space, where)
    if isinstance(info.action_space, spaces.Box):
        actions = within_bounds(actions, info.action_space, where)
    rewards = finite_float32("rewards", vector("rewards", columns["rewards"], where), where)
    terminations = flags("terminations", columns["terminations"], where)
    truncations = np.zeros(len(rewards), dtype=bool)
    if "truncations" in columns:
        truncations = flags("truncations", columns["truncations"], where) & ~terminations

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
        valid_next = flags("valid_next", columns["valid_next"], where)
        check_rows(~valid_next & ~terminations, f"{where}: valid_next is False on rows that are not terminal", "")
    return OfflineDataset(
        info,
        observations,
        actions,
        rewards,
        to_space("next_observations", columns["next_observations"], info.observation_space, where),
        terminations,
        truncations,
        valid_next,
    )


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
