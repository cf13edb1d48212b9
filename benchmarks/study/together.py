"""The seeds of one cell in one process: their networks are stacked, so that a gradient step of all is one."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch as th

from benchmarks.study import trap
from sb3_offline.datasets import open_dataset
from sb3_offline.seeds import learn_seeds
from sb3_offline.studies.plan import Cell
from sb3_offline.studies.records import is_finished, read_lines
from sb3_offline.studies.single import Begun, begin_run, end_run
from sb3_offline.training.health import TrainingDivergedError
from sb3_offline.training.resume import sibling

Group = tuple[Cell, ...]
TASKS = (trap.ENV_ID,)  # that a worker knows by importing this module


def grouped(cells: Sequence[Cell], at_once: int) -> list[Group]:
    """
    Cells that differ by their seed alone, so many to a group, the low seeds' groups first. Cells on a part of the data stay
    alone, for their episodes are drawn by the seed.
    """

    def key(cell: Cell) -> tuple[Any, ...]:
        run = cell.run
        return (
            run.seed // at_once,
            cell.path.parent,
            run.algo,
            run.dataset,
            run.fraction,
            run.seed if run.fraction < 1 else 0,
        )

    place = {key(cell): index for index, cell in reversed([*enumerate(cells)])}  # where the first of a group comes
    ranked = sorted(cells, key=lambda cell: (key(cell)[0], place[key(cell)], cell.run.seed))
    return [tuple(group) for _, group in itertools.groupby(ranked, key)]


def run_group(first: Cell, cores: int, groups: Mapping[Path, Group]) -> dict[str, Any]:
    """
    Run what is not finished of a group; a member that diverges scores the model of its last evaluation.

    :param first: the group's first cell
    :param groups: by their first cells' files
    :return: the last one's summary
    """
    th.set_num_threads(cores)
    cells = [cell for cell in groups[first.path] if not is_finished(cell.path)]
    if not cells:  # finished by another process meanwhile
        summary: dict[str, Any] = read_lines(first.path)[-1]["summary"]
        return summary
    run = cells[0].run
    data = open_dataset(run.dataset).load().sample_episodes(run.fraction, run.seed)
    begun = [begin_run(cell.run, cell.protocol, cell.path, data) for cell in cells]
    together = len({one.model.num_timesteps for one in begun}) == 1  # else it was cut between two members' evaluations
    for members in [begun] if together else [[one] for one in begun]:
        _learn(members)
    summaries = [end_run(_healthy(one)) for one in begun]
    for cell in cells:  # holds the data's rows, and a finished run asks for none
        sibling(cell.path.with_suffix(".zip")).unlink(missing_ok=True)
    return summaries[-1]


def _learn(begun: Sequence[Begun]) -> None:
    callbacks = {one.model.seed: one.callback for one in begun}
    with contextlib.suppress(TrainingDivergedError):
        learn_seeds([one.model for one in begun], begun[0].protocol.steps, callbacks.__getitem__)


def _healthy(begun: Begun) -> Begun:
    """With the model of its last evaluation, if it diverged after that."""
    kept = sibling(begun.path.with_suffix(".zip"))
    if begun.model.num_timesteps >= begun.protocol.steps or not kept.exists():
        return begun
    begun.callback.model = type(begun.model).resume(kept, dataset=begun.data)
    return replace(begun, model=begun.callback.model)
