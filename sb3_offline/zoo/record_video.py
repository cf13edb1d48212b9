"""``python -m sb3_offline.zoo.record_video``: RL-Zoo's record_video for our algorithms."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from sb3_offline.commands import run
from sb3_offline.zoo.play_commands import play_command


def record_video(words: Sequence[str]) -> None:
    """
    Record a trained agent as RL-Zoo does; needs moviepy, and whatever renders the task.

    :param words: RL-Zoo's options, and ``--trust``; the folder is ``logs`` if ``-f`` is not given
    :raises ValueError: if a file of the folder can run code, unless it is trusted
    """
    with play_command("sb3_offline.zoo.record_video", words):
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")  # it has no function to call


if __name__ == "__main__":
    sys.exit(run("sb3_offline.zoo.record_video", record_video, sys.argv[1:]))
