"""``train --seeds 0-7``: RL-Zoo sets up a run for each seed, with a folder of its own, and all learn in one process."""

from __future__ import annotations

import glob
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from sb3_offline.arguments import parse_seeds
from sb3_offline.files.model_file import ModelFile
from sb3_offline.files.regular import is_regular
from sb3_offline.seeds import learn_seeds
from sb3_offline.seeds.seeds import checkpoints_of_seeds, resume_together
from sb3_offline.training.health import TrainingDivergedError
from sb3_offline.training.resume import check_options, checkpoints
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
    """
    Runs that RL-Zoo has set up, and which wait for each other; those of the same command that were cut off go on.

    :param seeds: of the runs
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.runs: list[tuple[Any, Any]] = []
        self._cut: dict[int, Path] | None = None  # not looked for yet

    def folder_of(self, manager: Any) -> Path | None:
        """Where the run of this manager's seed goes on; None for a run that begins."""
        if self._cut is None:
            self._cut = self._find_cut(manager)
        return self._cut.get(manager.seed)

    def _find_cut(self, manager: Any) -> dict[int, Path]:
        """The newest folder of each seed; none, unless all have one, and one of them is not finished."""
        arguments, name = vars(manager.args), manager.env_name
        found = {seed: _newest_of(Path(manager.log_path), name, arguments | {"seed": seed}) for seed in self.seeds}
        folders = {seed: folder for seed, folder in found.items() if folder is not None}
        cut = len(folders) == len(self.seeds) and not all(_is_finished(folder / f"{name}.zip") for folder in folders.values())
        return folders if cut and all(checkpoints(folder) for folder in folders.values()) else {}

    def learn(self, share_dynamics: bool) -> None:
        """Let all learn, and save each where its own run would have."""
        if self._cut:
            self._resume(self._cut)
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

    def _resume(self, cut: dict[int, Path]) -> None:
        """
        Put the models of the last step that all have saved in the place of the new ones.

        :raises ValueError: if the command's configuration, or its data, are others now
        """
        own = {manager.seed: (manager, model) for manager, model in self.runs}
        where = f"{', '.join(map(str, cut.values()))}: move them away, or name another folder by -f, to begin anew"

        def resume(seed: int, file: Path) -> Any:
            _, begun = own[seed]
            model = type(begun).resume(file, env=begun.env, dataset=begun.dataset)
            check_options(model._continuation, begun)
            return model

        try:
            models = resume_together(checkpoints_of_seeds(cut), resume)
        except ValueError as error:
            raise ValueError(f"These seeds were cut off before. {error} They lie in {where}.") from error
        if models is None:
            raise ValueError(f"The seeds that were cut off have no step of which all have a checkpoint, in {where}.")
        self.runs = [(own[seed][0], model) for seed, model in models.items()]
        step = next(iter(models.values())).num_timesteps
        print(f"Seeds {', '.join(map(str, models))} were cut off before, and go on at step {step:,}")


def _newest_of(logs: Path, name: str, arguments: dict[str, Any]) -> Path | None:
    """
    The latest run that a command of these arguments has begun.

    :param logs: the algorithm's
    :param name: of the env, as folders have it
    """
    text = yaml.dump(OrderedDict(sorted(arguments.items())))  # as RL-Zoo writes it; compared, never loaded
    same = [
        (int(number), folder)
        for folder in logs.glob(f"{glob.escape(name)}_*")
        if (number := folder.name[len(name) + 1 :].partition("_")[0]).isdecimal()
        and is_regular(file := folder / name / "args.yml")
        and file.read_bytes() == text.encode()
    ]
    return max(same)[1] if same else None


def _is_finished(path: Path) -> bool:
    """Whether a run's last model has taken all of its steps; after Ctrl-C it has not."""
    if not path.exists():
        return False
    data = ModelFile(path).data()
    return bool(data["num_timesteps"] >= data["_total_timesteps"])
