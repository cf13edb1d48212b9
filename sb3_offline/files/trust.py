"""Whether the reader of a file has said that its writer is trusted: then pickles and foreign code may be taken from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sb3_offline.arguments import check_flag

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Every load inside unpickles, if ``trust``: for the command line's --trust, where RL-Zoo calls ``load``."""
    token = _trusted.set(trust or _trusted.get())
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted(trust: bool = False) -> bool:
    """
    Whether a caller, or a :func:`trusting` around it, said that pickles may be read.

    :raises TypeError: for what is neither True nor False
    """
    return check_flag("trust", trust) or _trusted.get()
