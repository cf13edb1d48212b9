"""Which columns of a table are what: the mapping that a user gives, as a dict or in a YAML file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.offline_dataset import MASK_NAMES
from sb3_offline.datasets.sources.files import path_of
from sb3_offline.files.regular import read_regular

#: One array's columns, side by side; of a Dict space by key.
Names = tuple[str, ...]
_LISTS = ("observations", "actions", "next_observations", *MASK_NAMES)
_SINGLE = ("rewards", "terminations", "truncations", "valid_next", "episode", "time")
_REQUIRED = ("observations", "actions", "rewards", "terminations")
_YAML_BOOL = "tag:yaml.org,2002:bool"


@dataclass(frozen=True)
class Columns:
    """
    Which columns are what.

    :param observations: side by side; by key for a Dict space
    :param rewards: a column, or a function of the frame
    :param terminations: a column, a function of the frame, False (the task never ends by itself) or True (it ends with each
        episode's last row)
    :param next_observations: as ``observations``; the following row's if not given
    :param truncations: a column, or a function of the frame; each episode's last row is cut in any case, if it is not terminal
    :param valid_next: a column, False where a terminal row's next observation was not logged
    :param action_masks: 1 or True where an action may be chosen: a column for each action, or one of lists
    :param next_action_masks: likewise at the next observation; the following row's if not given
    :param episode: rows of equal value are an episode
    :param time: orders the rows of an episode
    :param gap: a longer step in time than this is a cut (seconds where time is a date); 1.5 times the median step if None
    """

    observations: Names | dict[str, Names]
    actions: Names
    rewards: str | Callable[[Any], Any]
    terminations: str | Callable[[Any], Any] | bool
    next_observations: Names | dict[str, Names] | None = None
    truncations: str | Callable[[Any], Any] | None = None
    valid_next: str | None = None
    action_masks: Names | None = None
    next_action_masks: Names | None = None
    episode: str | None = None
    time: str | None = None
    gap: float | None = None

    def used(self) -> list[str]:
        """Every column that is read, once."""
        parts = [part for role in _LISTS for part in groups_of(getattr(self, role)).values()]
        single = [getattr(self, role) for role in _SINGLE]
        return list(dict.fromkeys([name for part in parts for name in part] + [n for n in single if isinstance(n, str)]))

    def optional(self) -> set[str]:
        """Columns of next observations alone, which the last row of an episode may be without."""
        following = {name for part in groups_of(self.next_observations).values() for name in part}
        return following - set(replace(self, next_observations=None).used())

    def functions(self) -> list[str]:
        """The arrays that are functions of the frame."""
        return [role for role in ("rewards", "terminations", "truncations") if callable(getattr(self, role))]

    def __str__(self) -> str:
        said = []
        for role, value in ((field.name, getattr(self, field.name)) for field in fields(self)):
            if value is not None:
                said.append(f'"{role}": {_written(value)}')
        return "{" + ", ".join(said) + "}"


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {_written(part)}' for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{name}"' for name in value) + "]"
    if callable(value):
        return getattr(value, "__name__", "a function")
    return f'"{value}"' if isinstance(value, str) else str(value)


def groups_of(names: Names | Mapping[str, Names] | None) -> dict[str, Names]:
    """Column names by key of a Dict space; the key of a plain array is empty."""
    if names is None:
        return {}
    return dict(names) if isinstance(names, Mapping) else {"": names}


def parse_columns(given: Any, existing: Sequence[str], where: str) -> Columns:
    """
    :param given: a mapping from our names to columns, or the path of a YAML file with one; a name may hold ``*``
    :param existing: the table's columns
    :raises DatasetError: for a name that there is not, with the nearest one, or what is missing
    """
    mapping = mapping_of(given, where)
    known = [field.name for field in fields(Columns)]
    parsed: dict[str, Any] = {}
    for role, value in mapping.items():
        if role not in known:
            near = difflib.get_close_matches(str(role), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it may name {', '.join(known)}."
            raise DatasetError(f"{where}: columns= names {role!r}, which means nothing; {hint}")
        if value is not None:
            parsed[role] = _parse(role, value, existing, where)
    missing = [role for role in _REQUIRED if role not in parsed]
    if missing:
        raise DatasetError(
            f"{where}: columns= does not say which columns are {', '.join(missing)}.{advice(missing, existing)}"
        )
    if "gap" in parsed and "time" not in parsed:
        raise DatasetError(f"{where}: columns= gives a gap, but no column as time.")
    return Columns(**parsed)


def mapping_of(given: Any, where: str) -> Mapping[str, Any]:
    """:raises DatasetError: if ``columns`` are neither a dict nor the path of a YAML file with one"""
    mapping = _from_yaml(path_of(given)) if isinstance(given, (str, Path)) else given
    if not isinstance(mapping, Mapping):
        raise DatasetError(f"{where}: columns= is a dict, or the path of a YAML file with one; got {type(mapping).__name__}.")
    return mapping


def parse_observations(given: Any, existing: Sequence[str], where: str) -> Names | dict[str, Names]:
    """
    The part of a mapping that says which keys are observations, of a format where all the rest is known.

    :raises DatasetError: if the mapping says anything else, or names a key that there is not
    """
    mapping = mapping_of(given, where)
    if set(mapping) != {"observations"}:
        raise DatasetError(f'{where}: of this format columns= names observations alone: {{"observations": [...]}}.')
    return _parse("observations", mapping["observations"], existing, where)


def advice(missing: Sequence[str], existing: Sequence[str]) -> str:
    """What to do about arrays that no column is named for."""
    never = ' "terminations": False says that the task never ends by itself, True that each episode\'s last row ends it.'
    return f" The table has {', '.join(map(repr, existing))}.{never if 'terminations' in missing else ''}"


def _parse(role: str, value: Any, existing: Sequence[str], where: str) -> Any:
    if role == "gap":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or math.isnan(value):
            raise DatasetError(f"{where}: columns= gives gap as {value!r}; a positive number is needed, inf for no cuts.")
        return float(value)
    if role in _LISTS:
        if isinstance(value, Mapping) and "observations" in role and value:
            return {str(key): _names(f"{role}[{key!r}]", part, existing, where) for key, part in value.items()}
        return _names(role, value, existing, where)
    if role == "terminations" and isinstance(value, bool):
        return value
    if role in ("rewards", "terminations", "truncations") and callable(value):
        return value
    value = _named(value)
    if not isinstance(value, str):
        raise DatasetError(f"{where}: columns= gives {role} as {value!r}; the name of one column is needed.")
    if value not in existing:
        raise DatasetError(f"{where}: columns= names {value!r} as {role}, which is no column.{_near(value, existing)}")
    return value


def _names(role: str, value: Any, existing: Sequence[str], where: str) -> Names:
    names = [value] if isinstance(_named(value), str) else value
    names = [_named(name) for name in names] if isinstance(names, Sequence) else names
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{where}: columns= gives {role} as {value!r}; a column's name or a list of them is needed.")
    found: list[str] = []
    for name in names:
        matches = [name] if name in existing else [other for other in existing if "*" in name and fnmatchcase(other, name)]
        if not matches:
            raise DatasetError(f"{where}: columns= names {name!r} among {role}, which is no column.{_near(name, existing)}")
        found += matches
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice:
        raise DatasetError(f"{where}: columns= names {twice[0]!r} twice among {role}.")
    return tuple(found)


def _named(name: Any) -> Any:
    """pandas numbers columns that have no names; pyarrow has texts for them."""
    return str(name) if isinstance(name, (int, np.integer)) and not isinstance(name, bool) else name


def _near(name: str, existing: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, existing, n=3)
    return f" Near it: {', '.join(map(repr, near))}." if near else f" The table has {', '.join(map(repr, existing))}."


def _from_yaml(path: Path) -> Any:
    try:
        from sb3_offline.files.plain_yaml import PlainLoader, read_yaml
    except ImportError as error:
        raise DatasetError(f'{path}: reading YAML needs PyYAML: pip install "sb3-offline[tables]".') from error

    class Loader(PlainLoader):
        """As YAML 1.2 has it: ``on``, ``off``, ``yes`` and ``no`` are texts, as columns may be called."""

        yaml_implicit_resolvers = {  # noqa: RUF012 -- of the base, and read only
            first: [(tag, pattern) for tag, pattern in known if tag != _YAML_BOOL or first in "tTfF"]
            for first, known in PlainLoader.yaml_implicit_resolvers.items()
        }

    try:
        return read_yaml(read_regular(path).decode("utf-8"), Loader)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"columns={str(path)!r}: the file cannot be read as YAML ({' '.join(str(error).split())})."
        ) from error
