"""How much a value that came from a file really is: what it shares counts wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sb3_offline.files.refusal import FileRefused

_MOST = 1_000_000  # values, counted by every path that leads to them
_DEEPEST = 100
_LONGEST = 64 * 2**20  # characters of JSON; the bounds of a large image take one million
_HOLDERS = (list, tuple, set, frozenset)


def check_extent(value: Any, name: str) -> None:
    """
    Whoever walks lists and mappings walks every path. A file that names one list twice in the next, and that twice again,
    has few bytes and paths without end; so has a list that holds itself.

    :param name: of the file, for the message
    :raises FileRefused: if there are more than a million paths, or one of more than 100 steps
    """
    pending, count = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        children = (
            item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple, set, frozenset)) else ()
        )
        count += len(children) + 1
        if count > _MOST or depth > _DEEPEST:
            raise FileRefused(f"{name} holds lists within lists without end: it is damaged, or means harm.")
        pending += [(child, depth + 1) for child in children]
        if isinstance(item, Mapping):
            pending += [(key, depth + 1) for key in item if isinstance(key, tuple)]


def read_json(text: bytes | str, name: str) -> Any:
    """
    :param text: of a file
    :param name: of the file, for the message
    :raises FileRefused: if so many lists and objects stand in it that they take far more memory than the text
    :raises ValueError: if it is no JSON
    """
    marks: tuple[Any, ...] = (b"[", b"{", b",") if isinstance(text, bytes) else ("[", "{", ",")
    if sum(map(text.count, marks)) > 2 * _MOST or len(text) > _LONGEST:
        raise FileRefused(f"{name} holds {len(text):,} characters of description: it is damaged, or means harm.")
    return json.loads(text)
