"""Ends of episodes that nobody marked, where next observations were taken from the following rows: they show as jumps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.checks.findings import Finding, succession_error, succession_warning
from sb3_offline.datasets.checks.statistics import DimensionStatistics
from sb3_offline.datasets.checks.surprise import StepModel
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows

_ROWS = 20_000  # that are looked at, in one piece: the distances between jumps matter
_FAR, _APART = 25.0, 10.0  # times the error that nine in ten steps stay below
_FEWEST = 5
_NARROW = 0.1  # variance of where the jumps lead, in that of the data
_CHOSEN = 1.5  # standard deviations between the actions at jumps and others: then the action leads there
_MAX_ENVS = 64
_UNRELATED, _LEAST_ROWS, _MAX_DIMENSIONS = 0.97, 1000, 64


def check_unmarked_ends(
    dataset: OfflineDataset, observations: DimensionStatistics, model: StepModel, inside: np.ndarray
) -> Iterator[Finding]:
    """
    Jumps inside episodes to one and the same place, or at one and the same distance from each other, which no action leads
    to; and rows of which none tells anything of the next. Only where next observations were not logged: a log that holds them
    is taken at its word.

    :param inside: (n,) rows of which the following one is the successor
    """
    moving = ~observations.constant
    measured = not isinstance(dataset.observation_space, spaces.Discrete) and len(moving) <= _MAX_DIMENSIONS
    if not dataset.info.successors_inferred or not measured or not moving.any() or model.weights is None or model.width == 1:
        return
    rows = np.flatnonzero(inside[:_ROWS])
    if len(rows) >= _LEAST_ROWS and moving.sum() > 1 and model.unexplained().min() > _UNRELATED:
        yield succession_warning(
            dataset,
            "unrelated_rows",
            inside,
            inside,
            "taken from rows that tell nothing of each other, as if they were shuffled",
            "Bring the rows into the order of time; if they are single transitions, log next_observations, or mark each as "
            "terminated if nothing comes after it.",
        )
        return
    if len(rows) < _FEWEST:
        return
    errors = model.errors(rows)
    usual = float(np.quantile(errors, 0.9))
    far, apart = (rows[errors > factor * max(usual, 1e-12)] for factor in (_FAR, _APART))
    n_envs, length = _fragments(dataset, model, apart, usual)
    if n_envs:
        yield succession_error(
            dataset,
            "interleaved",
            apart,
            inside & (np.arange(len(inside)) < _ROWS),
            f"continued not by the following row but by the one {(n_envs - 1) * length + 1} rows on, as if fragments of "
            f"{length} steps of {n_envs} environments took turns",
            f"Put one environment after the other: x.reshape(-1, {n_envs}, {length}, *x.shape[1:]).swapaxes(0, 1)"
            ".reshape(x.shape) of every array, and mark the last row of each environment as truncated.",
        )
        return
    narrow = _lead_to_one_place(dataset, observations, far)
    length = 0 if narrow or dataset.truncations[:-1].any() else _common_distance(apart)
    jumps = far if narrow else apart
    if (narrow or length) and not _chosen(dataset, jumps):
        where = "to where episodes begin" if narrow else f"{length} rows or a multiple of that apart"
        yield succession_warning(
            dataset,
            "unmarked_ends",
            jumps,
            inside & (np.arange(len(inside)) < _ROWS),
            f"far from where the task's steps lead, {where}, inside what is marked as one episode",
            "Mark these rows as truncated (or terminated), or log next_observations.",
        )


def _fragments(dataset: OfflineDataset, model: StepModel, jumps: np.ndarray, usual: float) -> tuple[int, int]:
    """
    How many environments handed over fragments of how many steps in turns: jumps are multiples of that apart, and where each
    leads from goes on a number of fragments later. (0, 0) if that is not so.

    :param usual: the error that nine in ten steps stay below
    """
    logged = np.arange(len(dataset)) + np.append(0, np.cumsum(dataset.truncations[:-1]))  # a cut's last row was left out
    length = _common_distance(logged[jumps])
    for between in range(1, _MAX_ENVS if length else 0):
        wanted = logged[jumps] + between * length + 1
        place = np.minimum(np.searchsorted(logged, wanted), len(logged) - 1)
        there = logged[place] == wanted
        if there.sum() < max(_FEWEST, len(jumps) // 4):
            break
        if np.median(model.errors(jumps[there], place[there])) < usual:
            return between + 1, length
    return 0, 0


def _lead_to_one_place(dataset: OfflineDataset, observations: DimensionStatistics, jumps: np.ndarray) -> bool:
    if len(jumps) < _FEWEST:
        return False
    moving = ~observations.constant
    targets = flat_rows(dataset.next_observations[jumps]).astype(np.float64)
    return bool((targets.var(axis=0)[moving] / np.square(observations.std[moving])).mean() < _NARROW)


def _common_distance(jumps: np.ndarray) -> int:
    """A number of rows of which nearly all distances between jumps are multiples, or 0."""
    if len(jumps) < _FEWEST:
        return 0
    gaps = np.diff(jumps)
    usual = int(np.bincount(gaps).argmax())
    return usual if usual >= _FEWEST and (gaps % usual == 0).mean() > 0.9 else 0


def _chosen(dataset: OfflineDataset, jumps: np.ndarray) -> bool:
    """Whether actions at jumps differ from all others, so that they may be what leads there."""
    actions = flat_rows(dataset.actions[:_ROWS].reshape(-1, 1) if dataset.actions.ndim == 1 else dataset.actions[:_ROWS])
    if isinstance(dataset.action_space, spaces.Discrete):
        taken, share = np.unique(actions, return_counts=True)
        counts = np.array([(actions[jumps] == action).mean() for action in taken])
        return bool(((counts > 0.8) & (share < 0.5 * len(actions))).any())
    apart = np.abs(actions[jumps].mean(axis=0) - actions.mean(axis=0)) / np.maximum(actions.std(axis=0), 1e-12)
    return bool((apart > _CHOSEN).any())
