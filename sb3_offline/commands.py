"""How a command ends: with what it printed, or with one line that says what is wrong."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Sequence

import gymnasium as gym

#: What users cause. RL-Zoo checks its options by assertions; gymnasium names what a renderer needs (pygame).
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, AssertionError, gym.error.Error)


def run(name: str, command: Callable[[Sequence[str]], None], words: Sequence[str]) -> int:
    """
    Run a command.

    :param name: of the command, in front of its error
    :return: its exit status: 0, 2 for an error of the user, 130 if it was interrupted
    """
    try:
        command(words)
    except USER_ERRORS as error:
        return report(name, error)
    except KeyboardInterrupt:
        return 130
    return 0


def report(name: str, error: BaseException) -> int:
    """Print an error in one line, or whole if ``SB3_OFFLINE_TRACEBACK`` is set; the exit status 2."""
    if os.environ.get("SB3_OFFLINE_TRACEBACK"):
        raise error
    text = " ".join(printable(str(error)).split()) or type(error).__name__
    print(f"{name}: {text}", file=sys.stderr)
    return 2


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
