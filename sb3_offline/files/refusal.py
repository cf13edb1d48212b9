"""How a file is refused."""

from __future__ import annotations

from sb3_offline.commands import printable

__all__ = ["FileRefused", "Misfit", "OtherParts", "printable"]


class FileRefused(ValueError):
    """A file that is not read, because it is damaged or could do harm: the message says which, and what to do."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class Misfit(FileRefused):
    """What is learned belongs to another model than the one it is for."""


class OtherParts(Misfit):
    """It has other parts than the model beside a policy of the same names."""
