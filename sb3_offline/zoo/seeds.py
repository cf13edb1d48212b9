"""``train --seeds 0-7``: RL-Zoo sets up a run for each seed, with a folder of its own, and all learn in one process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sb3_offline.arguments import parse_seeds
from sb3_offline.seeds import learn_seeds
from sb3_offline.training.health import TrainingDivergedError
from sb3_offline.zoo.arguments import Arguments

_ALONE = ("-optimize", "--optimize", "--optimize-hyperparameters", "--seed")


def take_seeds(words: Sequence[str]) -> tuple[list[str], list[int], bool]:
    """
    A command line without ``--seeds`` and ``--share-dynamics``, the seeds, none if it names none, and whether it shares them.

    :raises ValueError: for seeds that are none, and beside options of one run
    """
    arguments = Arguments([word for word in words if word != "--share-dynamics"])
    text, share = arguments.pop("--seeds"), "--share-dynamics" in words
    if text is None:
        if share:
            raise ValueError("--share-dynamics goes with --seeds, such as --seeds 0-7.")
        return arguments.words, [], False
    for option in _ALONE:
        if arguments.position(option) is not None:
            raise ValueError(f"{option} does not go with --seeds: leave one of them out.")
    return arguments.words, parse_seeds(text), share


class Waiting:
    """Runs that RL-Zoo has set up, and which wait for each other."""

    def __init__(self) -> None:
        self.runs: list[tuple[Any, Any]] = []

    def learn(self, share_dynamics: bool) -> None:
        """Let all learn, and save each where its own run would have."""
        managers, models = [manager for manager, _ in self.runs], [model for _, model in self.runs]
        own = {model.seed: manager.callbacks for manager, model in self.runs}
        interval = managers[0].log_interval
        try:
            with suppress(KeyboardInterrupt):  # RL-Zoo saves what there is
                learn_seeds(
                    models,
                    managers[0].n_timesteps,
                    own.__getitem__,
                    {-1: 1000}.get(interval, interval if interval > 0 else None),
                    share_dynamics=share_dynamics,
                )
        finally:
            for model in models:
                model.env.close()
        for manager, model in self.runs:
            with suppress(TrainingDivergedError):  # which was said
                manager.save_trained_model(model)
