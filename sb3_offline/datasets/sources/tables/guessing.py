"""What the columns of a table probably are, from their names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sb3_offline.datasets.offline_dataset import MASK_NAMES

#: Names as loggers write them, in lower case. What could mean two things (``done``) is not guessed.
_PATTERNS = {
    "observations": r"(obs|observations?|states?|s)([._\[ -]?\d+\]?)?|(obs|observations?|state)[._].+",
    "next_observations": r"next[._](obs|observations?|states?)([._\[ -]?\d+\]?)?|next[._](obs|observations?|state)[._].+",
    "next_action_masks": r"next[._]action[._]masks?([._\[ -]?\d+\]?)?",
    "action_masks": r"action[._]masks?([._\[ -]?\d+\]?)?",
    "actions": r"(act|actions?|a)([._\[ -]?\d+\]?)?|(act|action)[._].+",
    "rewards": r"r|rew|rewards?|next\.reward",
    "terminations": r"terminations?|terminals?|terminated|is_terminal",
    "truncations": r"truncations?|truncated|timeouts?|is_timeout",
    "valid_next": r"valid_next",
    "episode": r"((episode|trajectory|traj|run|rollout|batch)([._]?(id|index|idx|number|no|name))?)",
    "time": r"t|time|timestamp|time_?step|step|frame_index|datetime",
}
_LISTS = ("observations", "actions", "next_observations", *MASK_NAMES)


def guess_columns(names: Sequence[str]) -> dict[str, Any]:
    """
    A mapping as ``columns=`` takes it, as far as the names tell. A name that fits more than once is left out where one column
    is needed.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        for role, pattern in _PATTERNS.items():
            if re.fullmatch(pattern, name.strip().lower()):
                found.setdefault(role, []).append(name)
                break
    guess: dict[str, Any] = {}
    for role, columns in found.items():
        if role in _LISTS:
            guess[role] = sorted(columns, key=_naturally)
        elif len(columns) == 1:
            guess[role] = columns[0]
    return guess


def _naturally(name: str) -> list[Any]:
    """obs_2 before obs_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]
