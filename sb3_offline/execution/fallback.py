"""Something slower or less exact than what was asked for is used: said once, never silent."""

from __future__ import annotations

import functools
import warnings


class FallbackWarning(UserWarning):
    """Something slower than what was asked for is used, and why."""


@functools.cache
def announce(message: str) -> None:
    """Warn, once a process for each message."""
    warnings.warn(message, FallbackWarning, stacklevel=3)
