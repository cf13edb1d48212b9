"""Which bounds of continuous actions are bounds."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

#: A bound this far away is none: float32 has no room for the span of such, nor for squares.
_NO_BOUND = 1e30


def is_bounded(space: spaces.Box) -> bool:
    """Whether all bounds are finite, and less than such as ``numpy.finfo(numpy.float32).max``, which stands for none."""
    return bool(is_bound(space.low).all() and is_bound(space.high).all())


def is_bound(end: np.ndarray) -> np.ndarray:
    """Of each bound whether it is one, as :func:`is_bounded` has it."""
    return np.abs(end.astype(np.float64)) < _NO_BOUND
