"""How a file is refused, and how its words are shown."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """
    Text from a file as a terminal may show it: what would move the cursor, change colours or turn the direction of writing
    is spelt out (``\\x1b``); line ends and tabs stay.
    """
    return "".join(char if char in "\n\t" or not _controls(char) else _spelt(char) for char in text)


def _controls(char: str) -> bool:
    kind = unicodedata.category(char)  # Cc: control, Cs: half a pair; Cf holds the marks of direction, and joiners of emoji
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and unicodedata.bidirectional(char) != "BN")


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


class FileRefused(ValueError):
    """A file that is not read, because it is damaged or could do harm: the message says which, and what to do."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))
