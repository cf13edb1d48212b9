"""Who unpickles is seen: Python itself reports what a pickle asks for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_unpickled: list[str] | None = None


def _note(event: str, args: tuple[Any, ...]) -> None:
    if _unpickled is not None and event in ("pickle.find_class", "os.system", "os.mkdir", "subprocess.Popen"):
        _unpickled.append(f"{event}{args}")


sys.addaudithook(_note)


@contextmanager
def nothing_unpickled() -> Iterator[None]:
    """Python itself reports what a pickle asks for."""
    global _unpickled
    _unpickled = []
    try:
        yield
        if _unpickled:
            raise AssertionError(f"unpickled: {_unpickled}")
    finally:
        _unpickled = None
