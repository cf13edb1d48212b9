"""``torchrun -m sb3_offline train``: the first process trains as one alone would, the others say and keep nothing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from sb3_offline.execution import ranks
from sb3_offline.zoo.arguments import Arguments

#: What only the first process does; all others of RL-Zoo's options mean the same in each.
_OF_THE_FIRST = ("-f", "--log-folder", "-tb", "--tensorboard-log", "--eval-freq", "--save-freq")
_ALONE = ("-optimize", "--optimize", "--optimize-hyperparameters", "--seeds")


@contextmanager
def in_its_place(words: Sequence[str]) -> Iterator[list[str]]:
    """
    This process's command line; as it is where there is one process.

    :raises ValueError: for options that several processes cannot share
    """
    ranks.join()
    arguments = Arguments(words)
    if ranks.size() > 1:
        for option in _ALONE:
            if arguments.position(option) is not None:
                raise ValueError(f"{option} does not go with torchrun, which trains one model by several processes.")
    if ranks.is_first():
        yield arguments.words
        return
    for option in _OF_THE_FIRST:
        arguments.pop(option)
    rest = [word for word in arguments.words if word not in ("-P", "--progress")]
    with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nothing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with redirect_stdout(nothing):
            yield [*rest, "-f", folder, "--eval-freq", "-1", "--save-freq", "-1"]
