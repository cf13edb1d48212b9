"""``python -m sb3_offline.zoo.enjoy``: RL-Zoo's enjoy for our algorithms. It reads no dataset."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sb3_offline.commands import run
from sb3_offline.zoo.play_commands import play_command


def enjoy(words: Sequence[str]) -> None:
    """
    Watch a trained agent as RL-Zoo does.

    :param words: RL-Zoo's options, and ``--trust``; the folder is ``logs`` if ``-f`` is not given
    :raises ValueError: if a file of the folder can run code, unless it is trusted
    """
    with play_command("sb3_offline.zoo.enjoy", words):
        import rl_zoo3.enjoy

        rl_zoo3.enjoy.enjoy()


if __name__ == "__main__":
    sys.exit(run("sb3_offline.zoo.enjoy", enjoy, sys.argv[1:]))
