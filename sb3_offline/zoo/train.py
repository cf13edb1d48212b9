"""``python -m sb3_offline.zoo.train``: RL-Zoo's train on logged data."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sb3_offline.commands import run
from sb3_offline.zoo.arguments import Arguments, command_line, take_trust, train_arguments
from sb3_offline.zoo.followers import in_its_place
from sb3_offline.zoo.registration import only_ours, register


def train(words: Sequence[str]) -> None:
    """
    Train as RL-Zoo does; where torchrun has started several processes, all of them one model.

    :param words: RL-Zoo's options, ``--dataset`` with an id or a file, ``--objective`` of a search, ``--trust``, and
        ``--seeds`` (0-7 or 0,3,5), which learn in one process, with ``--share-dynamics`` if one fit is for all; those that
        were cut off go on, exactly, from the last step of which all have a checkpoint
    :raises ValueError: for whatever cannot apply
    """
    with in_its_place(words) as own:
        _train(own)


def _train(words: Sequence[str]) -> None:
    register()
    import rl_zoo3.train

    from sb3_offline.files.trust import trusting
    from sb3_offline.zoo.manager import offline_manager
    from sb3_offline.zoo.objectives import check_objective
    from sb3_offline.zoo.seeds import Waiting, take_seeds

    words, trust = take_trust(words)
    words, seeds, share = take_seeds(words)
    arguments = Arguments(words)
    objective, words = arguments.pop("--objective") or "simulator", arguments.words
    if "-h" not in words and "--help" not in words:
        words = train_arguments(words, trust)
    waiting = Waiting(seeds) if seeds else None
    with offline_manager(check_objective(objective), waiting), trusting(trust), only_ours():
        for own in [["--seed", str(seed)] for seed in seeds] or [[]]:
            with command_line("sb3_offline.zoo.train", [*words, *own]):
                rl_zoo3.train.train()
        if waiting is not None:
            waiting.learn(share)


if __name__ == "__main__":
    sys.exit(run("sb3_offline.zoo.train", train, sys.argv[1:]))
