"""
Options that hang together, as one frozen dataclass each, which a YAML file or the shell can write as a mapping.

``{"kind": "chi2", "radius": 0.5}`` is ``ChiSquare(radius=0.5)``; the kind alone will do where all else has a default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from sb3_offline.files.encoding import register_kind

Option = TypeVar("Option", bound=type)


def option(cls: Option) -> Option:
    """A class decorator: a model's file may hold the dataclass."""
    names = [field.name for field in dataclasses.fields(cls)]
    register_kind(cls.__name__, cls, lambda value: {name: getattr(value, name) for name in names}, cls)
    return cls


def read_option(name: str, value: Any, kinds: Mapping[str, type]) -> Any:
    """
    What a user gives, as one of the dataclasses.

    :param name: of the option, for the messages
    :param value: an object, a mapping of its fields with its ``kind``, or the kind alone
    :param kinds: the dataclasses by kind; of a single one the kind may be left out
    :raises TypeError: for another type, an unknown field (with the nearest), or one that is missing
    :raises ValueError: for an unknown kind, or a value out of range
    """
    if type(value) in kinds.values():
        return value
    fields = {"kind": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping):
        raise TypeError(f"{name} must be {_names(kinds)}, got {value!r}.")
    given = dict(fields)
    kind = given.pop("kind", next(iter(kinds)) if len(kinds) == 1 else None)
    if kind is None:
        raise TypeError(f"{name} needs a kind, one of {', '.join(kinds)}: {name}={ {'kind': next(iter(kinds)), **given} }.")
    if kind not in kinds:
        raise ValueError(f"{name} must be one of {', '.join(kinds)}, got {kind!r}.")
    cls: Any = kinds[kind]
    known = {field.name: field for field in dataclasses.fields(cls)}
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It takes: {', '.join(known) or 'none'}."
            raise TypeError(f"{name}={kind!r} takes no {key!r}. {hint}")
    missing = [key for key, field in known.items() if field.default is dataclasses.MISSING and key not in given]
    if missing:
        example = {"kind": kind} | given | dict.fromkeys(missing, ...)
        text = ", ".join(f"{key!r}: {'...' if item is ... else repr(item)}" for key, item in example.items())
        raise TypeError(f"{name}={kind!r} needs {' and '.join(missing)}: {name}={{{text}}}.")
    return cls(**given)


def kind_of(value: Any, kinds: Mapping[str, type]) -> str:
    """The kind of an option that :func:`read_option` made."""
    return next(kind for kind, cls in kinds.items() if type(value) is cls)


def _names(kinds: Mapping[str, type]) -> str:
    """The ways to give an option."""
    return " or ".join([*map(repr, kinds), "a mapping of its fields", *(cls.__name__ for cls in kinds.values())])
