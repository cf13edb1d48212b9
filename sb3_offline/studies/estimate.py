"""About how long a run takes: from runs like it that have ended, or from a few of its steps."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np

from sb3_offline.common.model_based import ModelBasedAlgorithm
from sb3_offline.datasets import open_dataset
from sb3_offline.dynamics import DynamicsConfig
from sb3_offline.registry import find_algorithm
from sb3_offline.studies.plan import Cell
from sb3_offline.studies.records import read_lines
from sb3_offline.studies.single import CurveCallback

_STEPS = 20


def seconds_of(cell: Cell, ended: Sequence[Cell]) -> float:
    """
    Seconds of a run; without one that has ended, measured: the dynamics' first epochs, some steps, and an episode.

    :param ended: finished runs of the same algorithm, options and data
    """
    if ended:
        return float(np.mean([read_lines(each.path)[-1]["summary"]["seconds"] for each in ended]))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return _measured(cell)


def _measured(cell: Cell) -> float:
    protocol, run = cell.protocol, cell.run
    algorithm: Any = find_algorithm(run.algo)
    data = open_dataset(run.dataset).load().sample_episodes(run.fraction, run.seed)
    options, epochs, measured = dict(protocol.options), 0, [0.0]  # seconds of each epoch of the dynamics' fit
    if issubclass(algorithm, ModelBasedAlgorithm):
        config = DynamicsConfig.from_kwargs(options.get("dynamics_kwargs"))
        epochs = config.epochs(len(data))
        options |= {"dynamics_kwargs": {**(options.get("dynamics_kwargs") or {}), "max_epochs": 2}, "dynamics_cache": False}
    start = time.perf_counter()
    model = algorithm("MlpPolicy", dataset=data, seed=run.seed, **options)
    model._log_dynamics = lambda stats: measured.append(stats.seconds)
    with closing(model.learning(_STEPS + 5, log_interval=None)) as steps:
        next(steps)
        preparation = time.perf_counter() - start
        for _ in range(4):  # the first ones allocate
            model.update()
            next(steps)
        start = time.perf_counter()
        for _ in range(_STEPS):
            model.update()
            next(steps)
        step = (time.perf_counter() - start) / _STEPS
    judge = CurveCallback(cell.path, protocol.eval_every, 1, run.seed)
    judge.model = model
    start = time.perf_counter()
    judge.evaluate(1)
    episode = time.perf_counter() - start
    n_episodes = protocol.steps // protocol.eval_every * protocol.episodes + protocol.final_episodes
    return preparation + max(epochs - 2, 0) * measured[-1] + step * protocol.steps + episode * n_episodes
