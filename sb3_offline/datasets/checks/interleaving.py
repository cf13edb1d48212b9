"""Logs of several environments that took turns, row by row: of which the successor lies a number of rows on."""

from __future__ import annotations

import numpy as np

from sb3_offline.datasets.checks.statistics import DimensionStatistics
from sb3_offline.datasets.checks.surprise import StepModel, some_of
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows

_MAX_ENVS = 256
_SAMPLE, _BLOCK = 128, 4096  # rows
_SHARE = 0.9  # of the sample whose next observation is found there
_NEARER = 0.3  # the other row's steps must be so much shorter, and leave so much less open
_OPEN = 0.2  # of the variance; less is the task's own steps
_MAX_DIMENSIONS = 64


def stride_of_successors(dataset: OfflineDataset, broken: np.ndarray) -> int | None:
    """How many rows on the logged next observations of broken rows are found, if it is the same number for most of them."""
    rows = some_of(np.flatnonzero(broken), _SAMPLE)
    then = flat_rows(dataset.next_observations[rows])
    for stride in range(2, min(_MAX_ENVS, len(dataset) // 2) + 1):
        there = rows + stride < len(dataset)
        found = (flat_rows(dataset.observations[rows[there] + stride]) == then[there]).all(axis=1)
        if found.sum() > _SHARE * len(rows):
            return stride
    return None


def stride_of_rows(dataset: OfflineDataset, observations: DimensionStatistics, model: StepModel) -> int | None:
    """
    How many rows on the observations continue, where next observations were taken from the following rows: a number above 1 if
    the steps over so many rows are far shorter than those to the next row, and a linear model explains them while it does not
    explain those to the next row. Steps of a task that swings back are explained, however long they are; and what lies so far
    apart that episodes end in between does not continue.
    """
    moving = ~observations.constant
    if not moving.any() or len(moving) > _MAX_DIMENSIONS or model.weights is None or len(dataset) < 100:
        return None
    first = max((len(dataset) - _BLOCK) // 2, 0)
    block = (flat_rows(dataset.observations[first : first + _BLOCK])[:, moving] - observations.mean[moving]) / (
        observations.std[moving]
    )
    longest = min(_MAX_ENVS, len(block) // 4)
    distances = [np.square(block[stride:] - block[:-stride]).mean() for stride in range(1, longest + 1)]
    stride = 1 + int(np.argmin(distances))
    if stride == 1 or distances[stride - 1] > _NEARER * distances[0]:
        return None
    n_ends = np.append(0, np.cumsum((dataset.terminations | dataset.truncations)[first : first + _BLOCK]))
    if np.mean(n_ends[stride:-1] > n_ends[: -stride - 1]) > 0.5:  # short episodes that are alike
        return None
    unexplained = model.unexplained().mean()
    if unexplained < _OPEN:
        return None
    ahead = _left_open(block[:-stride], block[stride:])
    return stride if ahead < _NEARER * unexplained else None


def _left_open(now: np.ndarray, then: np.ndarray) -> float:
    """The mean part of the variance of ``then`` that a linear function of ``now`` leaves open."""
    features = np.concatenate([np.ones((len(now), 1)), now], axis=1)
    left = then - features @ np.linalg.lstsq(features, then, rcond=None)[0]
    return float((left.var(axis=0) / np.maximum(then.var(axis=0), 1e-12)).mean())
