"""Whether steps between rows are those of the task, or jumps: held against a linear model of the data's own steps."""

from __future__ import annotations

import numpy as np

from sb3_offline.datasets.checks.statistics import DimensionStatistics, describe
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows

_MAX_ROWS, _MAX_NUMBERS = 20_000, 1 << 26
_MAX_DIMENSIONS = 64  # of images only the mean step is predicted
_QUANTILE = 0.99


def are_jumps(dataset: OfflineDataset, observations: DimensionStatistics, rows: np.ndarray, usual_rows: np.ndarray) -> bool:
    """
    Whether most steps from these rows to their next observations are farther from the prediction of
    s' - s = W (1, s, a) than 99 in 100 of the usual ones, which W is fitted to by least squares. Without usual ones: whether
    most are longer than one standard deviation of the data (of independent draws it is 1.4 on average).

    :param rows: of the steps in question, at least one
    :param usual_rows: of steps that are known to be the task's own
    """
    most = min(_MAX_ROWS, max(_MAX_NUMBERS // len(observations.mean), 2))
    if len(usual_rows) == 0:
        return bool(np.median(np.square(_steps(dataset, observations, _some(rows, most))).mean(axis=1)) > 1.0)
    rows, usual_rows = _some(rows, most), _some(usual_rows, most)
    actions = describe(dataset.actions)
    features = [_features(dataset, observations, actions, index) for index in (usual_rows, rows)]
    if features[0].shape[1] > len(usual_rows) // 10:  # too many to be fitted: the mean step alone
        features = [matrix[:, :1] for matrix in features]
    usual_steps, steps = (_steps(dataset, observations, index) for index in (usual_rows, rows))
    weights = np.linalg.lstsq(features[0], usual_steps, rcond=None)[0]
    usual_errors, errors = (
        np.square(step - matrix @ weights).mean(axis=1) for step, matrix in zip((usual_steps, steps), features, strict=True)
    )
    return bool(np.median(errors) > np.quantile(usual_errors, _QUANTILE))


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(np.int64))]


def _steps(dataset: OfflineDataset, observations: DimensionStatistics, rows: np.ndarray) -> np.ndarray:
    """(n, width) in standard deviations of each dimension."""
    now, then = (flat_rows(array[rows]).astype(np.float64) for array in (dataset.observations, dataset.next_observations))
    return (then - now) / _spread(observations)


def _features(
    dataset: OfflineDataset, observations: DimensionStatistics, actions: DimensionStatistics, rows: np.ndarray
) -> np.ndarray:
    parts = [np.ones((len(rows), 1))]
    for array, columns in ((dataset.observations, observations), (dataset.actions, actions)):
        if len(columns.mean) <= _MAX_DIMENSIONS:
            parts.append((flat_rows(array[rows]) - columns.mean) / _spread(columns))
    return np.concatenate(parts, axis=1)


def _spread(columns: DimensionStatistics) -> np.ndarray:
    return np.where(columns.std > 0, columns.std, 1.0)
