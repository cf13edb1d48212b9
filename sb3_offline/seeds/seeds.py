"""Several seeds of one algorithm, trained in one process: what JAX's vmap is used for elsewhere."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.type_aliases import GymEnv

from sb3_offline.arguments import check_count
from sb3_offline.buffers.buffers import BUFFER_ARRAYS
from sb3_offline.common.offline_algorithm import OfflineAlgorithm
from sb3_offline.datasets.sources import Source
from sb3_offline.execution import ranks
from sb3_offline.files.checksum import DamagedFileError
from sb3_offline.seeds.callbacks import SeedsCallback, callbacks_of, folder_of
from sb3_offline.seeds.together import Together
from sb3_offline.training.health import TrainingDivergedError
from sb3_offline.training.interrupt import Interrupt, deferred_interrupts
from sb3_offline.training.resume import checkpoints
from sb3_offline.training.run import INTERRUPTED_FOLDER

Model = TypeVar("Model", bound=OfflineAlgorithm)

DIVERGED = "diverged.txt"  # beside the checkpoints of a member that went no further


def train_seeds(
    algorithm: type[Model],
    policy: Any,
    env: GymEnv | str | None = None,
    dataset: Source | None = None,
    *,
    seeds: Sequence[int],
    total_timesteps: int | None = None,
    callback: SeedsCallback = None,
    log_interval: int | None = 1000,
    tb_log_name: str | None = None,
    progress_bar: bool = False,
    validation: Source | float | None = None,
    share_dynamics: bool = False,
    **options: Any,
) -> list[Model]:
    """
    Train one model a seed, all in one process: data lie in memory once, and the members' networks are stacked, so that a
    gradient step of all is one batched product a layer. Each member draws from its own random streams what it would draw
    alone, so that its weights are those of a run alone, to rounding. Afterwards each is an ordinary model.

    :param algorithm: the class, such as ``DROMO``
    :param seeds: of the members, each once
    :param callback: one that each member gets a copy of, a list of such, or a function seed -> callback; copies of SB3's
        callbacks write below ``seed_N/`` of the folder that they were given
    :param share_dynamics: fit the dynamics once, by the first seed, for all members; else each fits its own
    :param options: of the algorithm, and the other arguments as in its ``learn``
    :return: the models, in the order of ``seeds``
    :raises ValueError: for seeds that are none, or come twice; and what the algorithm raises
    :raises TrainingDivergedError: if all have diverged. One that does is named in a warning and stays as it is; the others
        go on
    """
    seeds = check_seeds(seeds)
    members = [algorithm(policy, env, dataset, seed=seed, **options) for seed in seeds]
    return learn_seeds(
        members,
        total_timesteps,
        callback,
        log_interval,
        tb_log_name,
        progress_bar=progress_bar,
        validation=validation,
        share_dynamics=share_dynamics,
    )


def check_seeds(seeds: Sequence[int]) -> list[int]:
    """:raises ValueError: for no seeds, one that is none, or one that comes twice"""
    if not isinstance(seeds, Iterable):
        raise ValueError(f"seeds must be several, such as range(8); got {seeds!r}.")
    checked = [check_count("seeds", seed, least=0) for seed in seeds]
    if not checked:
        raise ValueError("seeds is empty: give some, such as range(8).")
    if len({*checked}) < len(checked):
        raise ValueError(f"seeds holds one twice: {checked}.")
    return checked


def learn_seeds(
    members: Sequence[Model],
    total_timesteps: int | None = None,
    callback: SeedsCallback = None,
    log_interval: int | None = 1000,
    tb_log_name: str | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
    validation: Source | float | None = None,
    share_dynamics: bool = False,
) -> list[Model]:
    """
    ``learn`` of several models that differ by their seed alone, as :func:`train_seeds` has it; steps that they cannot take as
    one they take in turn, which is said once.

    :param members: models of one class with one set of options; those of :func:`resume_seeds` finish their run
    :return: the members
    :raises ValueError: where torchrun has started several processes, or for what are no such models
    :raises TrainingDivergedError: if all have diverged
    :raises KeyboardInterrupt: after Ctrl-C, once every member is saved
    """
    if ranks.size() > 1:
        raise ValueError("Several seeds learn in one process: start them without torchrun.")
    seeds = _seeds_of(members)
    name = tb_log_name or type(members[0]).__name__
    runs: list[Generator[None, None, None]] = []
    with deferred_interrupts("this gradient step of all seeds") as interrupt:
        try:
            with _one_dataset(members):
                for index, (member, own) in enumerate(zip(members, callbacks_of(callback, seeds), strict=True)):
                    if share_dynamics and index > 0:
                        member.dynamics = copy.deepcopy(members[0].dynamics)  # type: ignore[attr-defined]
                    run = member.learning(
                        total_timesteps,
                        own,
                        log_interval,
                        f"{name}_{folder_of(seeds[index])}",
                        reset_num_timesteps,
                        progress_bar and index == 0,
                        validation,
                    )
                    runs.append(run)
                    next(run, None)
                    _share_rows(members[0], member)
            _take_steps(members, seeds, runs, interrupt)
        finally:
            for run in runs:
                run.close()
    return [*members]


def resume_seeds(
    algorithm: type[Model],
    path: str | Path,
    env: GymEnv | str | None = None,
    dataset: Source | None = None,
    **load_options: Any,
) -> list[Model]:
    """
    The members of an interrupted run, which :func:`learn_seeds` finishes exactly: each at the last step that all have
    saved.

    :param path: the folder that was given to a ``CheckpointCallback``, or where Ctrl-C saved: it holds ``seed_N/``
    :param dataset: as for ``resume``
    :raises ValueError: if there are no such folders, or no step that all have a sound checkpoint of
    """
    folders = {int(folder.name[5:]): folder for folder in Path(path).glob("seed_*") if folder.name[5:].isdecimal()}
    saved = checkpoints_of_seeds(dict(sorted(folders.items())))
    if not saved:
        raise ValueError(f"{path} holds no folders seed_0, seed_1, ..., which a CheckpointCallback of train_seeds writes.")
    resumed = resume_together(saved, lambda _, file: algorithm.resume(file, env, dataset, **load_options))
    if resumed is None:
        raise ValueError(f"{path}: there is no step of which all of {', '.join(map(str, saved))} have a checkpoint.")
    return [*resumed.values()]


def checkpoints_of_seeds(folders: Mapping[int, Path]) -> dict[int, dict[int, Path]]:
    """Of each seed's folder its newest run's, by their step; a seed that had diverged is named in a warning and left out."""
    notes = {seed: folder / DIVERGED for seed, folder in folders.items() if (folder / DIVERGED).exists()}
    for seed, note in notes.items():
        warnings.warn(f"seed {seed} had diverged and is left out: {note.read_text()}", stacklevel=3)
    return {seed: checkpoints(folder) for seed, folder in folders.items() if seed not in notes}


def resume_together(saved: Mapping[int, Mapping[int, Path]], resume: Callable[[int, Path], Model]) -> dict[int, Model] | None:
    """
    All at the last step that all have saved, and saved soundly; None if there is none.

    :param saved: seed -> step -> checkpoint
    :param resume: makes one seed's model of its checkpoint
    """
    common = set.intersection(*({*steps} for steps in saved.values()))
    for step in sorted(common, reverse=True):
        try:
            return {seed: resume(seed, steps[step]) for seed, steps in saved.items()}
        except DamagedFileError as error:
            warnings.warn(f"{error}: step {step} is skipped.", stacklevel=3)
    return None


def _seeds_of(members: Sequence[Any]) -> list[int]:
    """:raises ValueError: for what are no models of one class, or models of which two have one seed"""
    if not isinstance(members, Sequence) or not members:
        raise ValueError(f"members must be a list of models, each of its own seed; got {members!r:.80}.")
    classes = sorted({type(member).__name__ for member in members})
    if len({*map(id, members)}) < len(members):
        raise ValueError("members holds one model twice: make one for each seed.")
    if len(classes) > 1:
        raise ValueError(f"Members of one class learn together, and these are {', '.join(classes)}.")
    return check_seeds([index if member.seed is None else member.seed for index, member in enumerate(members)])


# --- the run ---


def _take_steps(
    members: Sequence[Any], seeds: Sequence[int], runs: Sequence[Generator[None, None, None]], interrupt: Interrupt
) -> None:
    """Let all take their steps until each has finished, or diverged."""
    going = [index for index, member in enumerate(members) if member._run is not None]
    records = [member._run for member in members]
    flag = Interrupt()  # raised between two rounds, so that all stop at the same step
    for index in going:
        records[index].folder, records[index].interrupt = INTERRUPTED_FOLDER / folder_of(seeds[index]), flag
    together = Together([members[index] for index in going])
    diverged: dict[int, TrainingDivergedError] = {}
    stop: BaseException | None = None
    try:
        while going:
            together.update()
            flag.signal = interrupt.signal
            leaving = []
            for index in going:
                try:
                    next(runs[index])
                except StopIteration:
                    leaving.append(index)
                except TrainingDivergedError as error:
                    leaving.append(index)
                    diverged[index] = error
                    _note(error, seeds[index], records[index].last_checkpoint, len(going) - len(leaving))
                except (KeyboardInterrupt, SystemExit) as error:
                    if not (interrupt and error.args):  # it was pressed again
                        raise
                    leaving.append(index)
                    stop = error
            if leaving:
                going = [index for index in going if index not in leaving]
                together.leave([members[index] for index in leaving])
    finally:
        together.leave(together.members)
    if stop is not None:
        raise stop
    if len(diverged) == len(members):
        raise TrainingDivergedError(f"All seeds diverged. The last: {diverged[max(diverged)]}") from diverged[max(diverged)]


def _note(error: TrainingDivergedError, seed: int, checkpoint: Path | None, n_others: int) -> None:
    warnings.warn(f"Seed {seed}: {error} It stays as it is; the others, {n_others}, go on.", stacklevel=4)
    if checkpoint is not None:
        (checkpoint.parent / DIVERGED).write_text(str(error))


@contextmanager
def _one_dataset(members: Sequence[Any]) -> Iterator[None]:
    """
    Inside, all members have the same data in memory.

    :raises ValueError: if they were given different ones
    """
    given = [member.dataset for member in members]
    if any(other is not given[0] and not (isinstance(other, (str, Path)) and other == given[0]) for other in given):
        raise ValueError("The members have different data: seeds learn together from the same.")
    loaded = members[0].load_dataset()
    for member in members:
        member.dataset = loaded
    try:
        yield
    finally:
        for member, source in zip(members, given, strict=True):
            member.dataset = source


def _share_rows(first: Any, other: Any) -> None:
    """Let a member's buffer hold the first one's rows, where they are equal and in memory."""
    mine, yours = first.replay_buffer, other.replay_buffer
    if mine is None or yours is None or yours is mine:
        return
    for name in (*BUFFER_ARRAYS, "returns"):
        rows, same = getattr(mine, name, None), getattr(yours, name, None)
        if isinstance(rows, th.Tensor) and isinstance(same, th.Tensor) and th.equal(rows, same):
            setattr(yours, name, rows)
