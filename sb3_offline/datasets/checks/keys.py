"""The names of a data set's arrays: ours, D4RL's, and what a misspelt one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES

REQUIRED = ("observations", "actions", "rewards", "terminations")
BY_KEY = ("observations", "next_observations")  # may be mappings of arrays
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
