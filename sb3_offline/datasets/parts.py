"""Observations of a Dict space as one array: a structured one, whose fields are the keys; it is indexed by rows or by key."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def join_parts(parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """
    Arrays (n, ...) by key as one structured array (n,); each keeps its type.

    :raises ValueError: if they differ in length
    """
    lengths = {len(part) for part in parts.values()}
    if len(lengths) != 1:
        raise ValueError(f"the parts differ in length: { {key: len(part) for key, part in parts.items()} }")
    joined = np.empty(lengths.pop(), [(key, part.dtype, part.shape[1:]) for key, part in parts.items()])
    for key, part in parts.items():
        joined[key] = part
    return joined


def parts_of(rows: np.ndarray) -> list[np.ndarray]:
    """The array of each key, in the space's order; a plain array is its own only part."""
    return [rows] if rows.dtype.names is None else [rows[key] for key in rows.dtype.names]


def flat_rows(rows: np.ndarray) -> np.ndarray:
    """(n, d): all numbers of each row, key after key. A plain array is only reshaped."""
    flat = [part.reshape(len(part), int(np.prod(part.shape[1:]))) for part in parts_of(rows)]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
