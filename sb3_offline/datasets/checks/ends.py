"""Where episodes end, from whatever flags say so: dones beside time limits, first rows, RLDS's steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sb3_offline.datasets.checks.columns import flags
from sb3_offline.datasets.checks.keys import END_NAMES


def episode_flags(columns: Mapping[str, Any], where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """
    Terminations and truncations of each row, (n,) bool, never both True; truncations are None if nothing tells of cuts.

    ``ends`` marks the last row of an episode whatever ended it: what is no termination is a cut, and what is no cut a
    termination. ``starts`` marks the first row: the one before it is an end.

    :raises DatasetError: for flags that are neither 0 nor 1
    """
    given = {
        name: flags(name, columns[name], where) for name in ("terminations", "truncations", *END_NAMES) if name in columns
    }
    ends, truncations = given.get("ends"), given.get("truncations")
    terminations = given["terminations"] if "terminations" in given else ends & ~truncations  # type: ignore[operator]
    if truncations is None and ends is None and "starts" not in given:
        return terminations, None
    cuts = np.zeros(len(terminations), dtype=bool) if truncations is None else truncations.copy()
    if ends is not None:
        cuts |= ends
    if "starts" in given:
        cuts[:-1] |= given["starts"][1:]
    return terminations, cuts & ~terminations


def may_be_rlds_steps(keys: Iterable[str]) -> bool:
    """Whether arrays are named as RLDS's steps are; the rows have to be looked at."""
    return {"is_last", "is_terminal"} <= set(keys)


def are_rlds_steps(blocks: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> bool:
    """
    Whether the rows are RLDS's steps: there an episode's last step holds only the observation that it ended with, beside an
    action and a reward that are to be ignored. They are zero, which tells it from a plain flag of that name.

    :param blocks: of rows, by their own names and by ours; no more of them are read than are needed
    """
    seen_last = seen_inner = used_inner = False
    for arrays, columns in blocks:
        if not may_be_rlds_steps(arrays) or "next_observations" in columns or isinstance(columns["actions"], dict):
            return False
        last = np.asarray(columns["ends"]).reshape(-1).astype(bool)
        if len(last) != len(columns["actions"]) or len(last) == 0:
            return False
        used = columns["actions"].reshape(len(last), -1).any(axis=1)
        if used[last].any() or np.asarray(columns["rewards"])[last].any():
            return False
        seen_last, seen_inner = seen_last or bool(last.any()), seen_inner or not last.all()
        used_inner = used_inner or bool(used[~last].any())
    return seen_last and seen_inner and used_inner


def transitions_of_steps(columns: Mapping[str, Any]) -> dict[str, Any]:
    """RLDS's steps as transitions: each step but the last leads to the next one's observation, and ends as that one says."""
    last = columns["ends"].reshape(-1).astype(bool)
    kept = np.flatnonzero(~last[:-1])

    def rows(value: Any, index: np.ndarray) -> Any:
        return {key: part[index] for key, part in value.items()} if isinstance(value, dict) else value[index]

    terminations, masks = columns["terminations"].reshape(-1)[kept + 1], columns.get("action_masks")
    return {
        **{name: rows(columns[name], kept) for name in ("observations", "actions", "rewards")},
        "next_observations": rows(columns["observations"], kept + 1),
        "terminations": terminations,
        "ends": last[kept + 1],
        **({"action_masks": masks[kept], "next_action_masks": masks[kept + 1]} if masks is not None else {}),
    }
