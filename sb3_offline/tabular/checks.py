"""Checks on the arrays that the tabular layer takes; each error names the argument and the state-action pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

# Loose enough for arrays that were once float32, tight enough to catch a wrong normalisation.
SUM_TOLERANCE = 1e-6


def first(mask: npt.NDArray[np.bool_]) -> str:
    """The first True entry of a mask, in words: "state 3, action 1"."""
    labels = ("state", "action", "next state")
    return ", ".join(f"{label} {index}" for label, index in zip(labels, np.argwhere(mask)[0], strict=False))


def finite(name: str, value: npt.ArrayLike, shape: tuple[int, ...] | None = None, ndim: int = 2) -> Array:
    """``value`` as a finite float64 array of the given shape (or, without a shape, of ``ndim`` dimensions)."""
    array = np.asarray(value, dtype=np.float64)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if shape is None and array.ndim != ndim:
        raise ValueError(f"{name} has {array.ndim} dimensions, expected {ndim}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite at {first(~np.isfinite(array))}")
    return array


def non_negative(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """A finite array without negative entries."""
    array = finite(name, value, shape)
    if (array < 0).any():
        raise ValueError(f"{name} is negative ({array[array < 0][0]:g}) at {first(array < 0)}")
    return array


def stochastic(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """Probabilities along the last axis: every row is non-negative and sums to 1."""
    array = non_negative(name, value, shape)
    sums = array.sum(axis=-1)
    wrong = np.abs(sums - 1) > SUM_TOLERANCE
    if wrong.any():
        where = first(np.atleast_1d(wrong)) if wrong.ndim else "the whole array"
        raise ValueError(f"{name} must sum to 1 along its last axis, but sums to {sums[wrong].flat[0]:g} at {where}")
    return array


def visitation(name: str, value: npt.ArrayLike, shape: tuple[int, ...], *, complete: bool = False) -> Array:
    """
    A distribution over state-action pairs. Eq 8, 11 and 13 separate over states, so a slice of the states (a total
    below 1) is accepted unless ``complete``; a total above 1 never is.
    """
    array = non_negative(name, value, shape)
    total = float(array.sum())
    if total > 1 + SUM_TOLERANCE or (complete and total < 1 - SUM_TOLERANCE):
        raise ValueError(f"{name} must sum to 1 over all state-action pairs, but sums to {total:g}")
    return array


def number(name: str, value: float, low: float = 0.0, high: float = np.inf) -> float:
    """A finite number in [low, high]."""
    if not (np.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be a finite number in [{low:g}, {high:g}], got {value}")
    return float(value)


def discount(gamma: float) -> float:
    """A discount factor, in [0, 1)."""
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must lie in [0, 1), got {gamma}")
    return float(gamma)
