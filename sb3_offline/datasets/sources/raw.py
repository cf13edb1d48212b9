"""What a file format's reader hands over: facts about the data, and a function that reads the arrays."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_offline.datasets.checks.keys import BY_KEY, meaning_of
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.goal_relabelling import GoalRelabelling
from sb3_offline.datasets.offline_dataset import DatasetInfo, OfflineDataset
from sb3_offline.datasets.space_facts import space_from
from sb3_offline.files.refusal import printable
from sb3_offline.files.structure import check_extent, read_json

#: Arrays by name, unchecked. Of a key that is not known only name and length matter (``UnreadArray``).
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class RawSource:
    """
    An opened source, before anything is checked. What the source does not say is None.

    ``build`` reads and checks the arrays where ``read`` would have to hold them all, or has to know the spaces. ``derive``
    gives the space of "observation" or "action" that the data themselves suggest, for when nobody says what it is.
    ``blocks`` reads all rows in the order of time without holding them, with a folder for files that it needs meanwhile.
    """

    dataset_id: str
    read: Callable[[], Arrays]
    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None
    env_spec: EnvSpec | None = None
    env_id: str | None = None
    env_id_from: str | None = None  # how env_id is known, if it was inferred
    reference_min_score: float | None = None
    reference_max_score: float | None = None
    card: dict[str, Any] = field(default_factory=dict)
    build: Callable[[DatasetInfo], OfflineDataset] | None = None
    derive: Callable[[str], spaces.Space] | None = None
    blocks: Callable[[DatasetInfo, Path], Iterator[Arrays]] | None = None
    goals: GoalRelabelling | None = None


def raw_from_metadata(
    dataset_id: str,
    read: Callable[[], Arrays],
    metadata: Mapping[str, Any],
    build: Callable[[DatasetInfo], OfflineDataset] | None = None,
    derive: Callable[[str], spaces.Space] | None = None,
    blocks: Callable[[DatasetInfo, Path], Iterator[Arrays]] | None = None,
) -> RawSource:
    """A source described by free-form metadata, of which ``env_id``, the spaces and the reference scores are understood."""
    facts = dict(metadata)
    env_id, low, high = (facts.pop(key, None) for key in ("env_id", "reference_min_score", "reference_max_score"))
    observation_space, action_space = (
        _space(dataset_id, facts.pop(f"{kind}_space", None)) for kind in ("observation", "action")
    )
    return RawSource(
        dataset_id,
        read,
        observation_space,
        action_space,
        env_id=None if env_id is None else str(env_id),
        reference_min_score=score(dataset_id, "reference_min_score", low),
        reference_max_score=score(dataset_id, "reference_max_score", high),
        card=facts,
        build=build,
        derive=derive,
        blocks=blocks,
    )


def _space(dataset_id: str, facts: Any) -> spaces.Space | None:
    """Of data whose task has no id; in HDF5 as JSON text."""
    if isinstance(facts, str):
        try:
            facts = json.loads(facts)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{dataset_id}: the metadata's spaces cannot be read ({error}). Leave them out.") from error
    return None if facts is None else space_from(facts, dataset_id)


def score(dataset_id: str, key: str, value: Any) -> float | None:
    """
    A reference score that a file names.

    :raises DatasetError: if it is no finite number
    """
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{dataset_id}: the metadata's {key} is {value!r:.80}, not a number.") from error
    if number is not None and not math.isfinite(number):
        raise DatasetError(f"{dataset_id}: the metadata's {key} is {number}, not a finite number. Leave it out.")
    return number


def plain(value: Any) -> Any:
    """A scalar array or bytes as the plain Python value it holds; anything else as it is."""
    if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0:
        value = value.item()
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def collect_metadata(dataset_id: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata from the keys ``env_id``, ``metadata`` (a mapping, or JSON text) and ``metadata/...`` (D4RL).

    :raises DatasetError: if ``metadata`` is text that is not a JSON object
    """
    found: dict[str, Any] = {}
    for key, value in ((str(key), plain(value)) for key, value in entries.items()):
        if key.startswith("metadata/"):
            found[key.removeprefix("metadata/")] = value
        elif key == "metadata" and isinstance(value, str):
            try:
                read = read_json(value, dataset_id)
                check_extent(read, dataset_id)
                found.update(read)
            except (ValueError, TypeError, RecursionError) as error:
                raise DatasetError(f"{dataset_id}: metadata is not a JSON object ({error}).") from error
        elif key == "metadata" and isinstance(value, Mapping):
            found.update({name: plain(item) for name, item in value.items()})
        elif key == "env_id":
            found[key] = value
    return shown(found)


def shown(value: Any) -> Any:
    """Text as a terminal, a page and a card may show it, wherever it stands."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {shown(key): shown(item) for key, item in value.items()}
    return [shown(item) for item in value] if isinstance(value, list) else value


def by_key(arrays: dict[str, Any]) -> dict[str, Any]:
    """``observations/image`` and the like, gathered into one mapping of arrays for each name."""
    gathered: dict[str, Any] = {}
    for key, array in arrays.items():
        name, _, part = key.partition("/")
        if part and meaning_of(name) in BY_KEY and name not in arrays:
            gathered.setdefault(name, {})[part] = array
        else:
            gathered[key] = array
    return gathered
