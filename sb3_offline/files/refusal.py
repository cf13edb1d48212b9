"""How a file is refused."""

from __future__ import annotations

from sb3_offline.commands import printable

__all__ = ["FileRefused", "printable"]


class FileRefused(ValueError):
    """A file that is not read, because it is damaged or could do harm: the message says which, and what to do."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))
