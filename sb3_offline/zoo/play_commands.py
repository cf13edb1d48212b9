"""What the commands that play a model, enjoy and record_video, do alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sb3_offline.zoo.arguments import command_line, play_arguments, take_trust
from sb3_offline.zoo.registration import only_ours, register


@contextmanager
def play_command(program: str, words: Sequence[str]) -> Iterator[None]:
    """
    Let RL-Zoo see the words of a command line, without ``--trust``, and read a run's folder through ours.

    :raises ImportError: if RL-Zoo is not installed
    """
    register()
    from sb3_offline.zoo.playing import playing

    words, trust = take_trust(words)
    if "-h" not in words and "--help" not in words:
        words = play_arguments(words)
    with command_line(program, words), playing(trust), only_ours():
        yield
