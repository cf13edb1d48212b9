"""Spaces as plain values, for the metadata of data that name no task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.errors import DatasetError

_DTYPES = ("float32", "float64", "uint8", "int8", "int16", "int32", "int64")
_MOST_NUMBERS = 10_000_000  # of one space: a file of a few bytes could name any shape


def facts_of(space: spaces.Space) -> dict[str, Any] | None:
    """A Box, Discrete, MultiDiscrete or MultiBinary space or a Dict of them, for JSON; None of any other."""
    if isinstance(space, spaces.Dict):
        parts = {key: facts_of(part) for key, part in space.items()}
        return None if None in parts.values() else {"kind": "Dict", "parts": parts}
    if isinstance(space, spaces.Box):
        return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **_bounds(space)}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(space.shape)}
    return None


def _bounds(space: spaces.Box) -> dict[str, Any]:
    """One number where all are equal."""
    ends = {"low": space.low, "high": space.high}
    return {name: end.flat[0].item() if (end == end.flat[0]).all() else end.tolist() for name, end in ends.items()}


def space_from(facts: Any, where: str) -> spaces.Space:
    """
    :param facts: as :func:`facts_of` gives them
    :raises DatasetError: for anything else
    """
    try:
        return _space(facts, where)
    except DatasetError:
        raise
    except Exception as error:  # of damaged text gymnasium and numpy raise any kind
        raise DatasetError(f"{where}: the metadata's spaces cannot be read ({error}). Leave them out.") from error


def _space(facts: Mapping[str, Any], where: str) -> spaces.Space:
    kind = facts["kind"]
    if kind == "Dict":
        return spaces.Dict({str(key): space_from(part, where) for key, part in facts["parts"].items()})
    shape = tuple(map(int, facts.get("shape", ())))
    if math.prod(shape) > _MOST_NUMBERS:
        raise DatasetError(f"{where}: the metadata name a space of shape {shape}, larger than any that can be trained on.")
    if kind == "Box" and facts["dtype"] in _DTYPES:
        dtype = np.dtype(facts["dtype"])
        low, high = (np.broadcast_to(np.asarray(facts[end], dtype), shape) for end in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(int(facts["n"]), start=int(facts["start"]))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(facts["nvec"], np.int64), start=np.array(facts["start"], np.int64))
    if kind == "MultiBinary":
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)  # gymnasium's n is not n of (n,)
    raise DatasetError(f"{where}: the metadata name a space of kind {kind!r:.40}. Leave it out.")
