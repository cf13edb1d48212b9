"""``--import``: algorithms of one's own, which a module or a file registers, in every command of the shell."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

OPTION = "--import"


def imports_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Every ``--import NAME`` of a command line, which the shell reads ahead of the command, and the rest."""
    front: list[str] = []
    rest: list[str] = []
    pending = iter(words)
    for word in pending:
        if word == OPTION:
            front += [word, *[value for value in [next(pending, None)] if value is not None]]
        elif word.startswith(f"{OPTION}="):
            front.append(word)
        else:
            rest.append(word)
    return front, rest


def import_own(name: str) -> None:
    """
    Run a module that calls :func:`sb3_offline.register_algorithm`.

    :param name: of the module, which may lie in the folder where the command is given; or a .py file
    :raises OSError: if there is no such file
    :raises ImportError: if it cannot be imported
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return
        path = Path(name)
        if not path.is_file():
            raise FileNotFoundError(f"{OPTION} {name}: there is no such file (looked in {path.absolute().parent}).")
        loader = SourceFileLoader(path.stem, str(path))
        sys.modules[path.stem] = module = ModuleType(path.stem)
        module.__file__ = str(path)
        loader.exec_module(module)
    except ImportError as error:
        raise ImportError(f"{OPTION} {name}: it cannot be imported ({error}).") from error
