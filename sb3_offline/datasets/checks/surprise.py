"""Whether steps between rows are those of the task, or jumps: held against a linear model of the data's own steps."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.checks.statistics import DimensionStatistics, describe
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows

_MAX_ROWS, _MAX_NUMBERS = 20_000, 1 << 26
_MAX_DIMENSIONS = 64  # of images only the mean step is predicted
_MAX_FEATURES = 256
_QUANTILE, _MANY = 0.99, 5


class StepModel:
    """
    s' - s = W (1, s, a), fitted to usual steps by least squares; of few discrete actions a W for each.

    :param usual_rows: of steps that are known to be the task's own
    """

    def __init__(self, dataset: OfflineDataset, observations: DimensionStatistics, usual_rows: np.ndarray):
        self.dataset, self.observations, self.actions = dataset, observations, describe(dataset.actions)
        self.counted = isinstance(dataset.observation_space, spaces.Discrete)
        self.most = min(_MAX_ROWS, max(_MAX_NUMBERS // len(observations.mean), 2))
        usual_rows = some_of(usual_rows, self.most)
        features, steps = self._features(usual_rows), self._steps(usual_rows)
        self.width = features.shape[1] if features.shape[1] <= len(usual_rows) // 10 else 1  # too many to be fitted: the mean
        self.weights = np.linalg.lstsq(features[:, : self.width], steps, rcond=None)[0] if len(steps) else None
        self.usual_errors = self.errors(usual_rows) if len(steps) else np.empty(0)
        self.usual_rows = usual_rows

    def errors(self, rows: np.ndarray, following: np.ndarray | None = None) -> np.ndarray:
        """
        (n,) mean square of what the model does not predict, in variances of each dimension.

        :param following: (n,) rows whose observations are taken in place of the next ones
        """
        steps = self._steps(rows, following)
        return np.square(steps - self._features(rows)[:, : self.width] @ self.weights).mean(axis=1)

    def are_jumps(self, rows: np.ndarray) -> bool:
        """
        Whether most steps from these rows to their next observations are farther from the prediction than 99 in 100 of the
        usual ones; of a few rows than all of them. Without usual ones: whether most are longer than one standard deviation
        of the data (of independent draws it is 1.4 on average). Of states that can be counted also whether 1 in 10 lead from
        and to states as no usual one does, where under 1 in 100 usual ones that were kept aside do.

        :param rows: at least one
        """
        rows = some_of(rows, self.most)
        if self.weights is None:
            return bool(np.median(np.square(self._steps(rows)).mean(axis=1)) > 1.0)
        limit = np.quantile(self.usual_errors, _QUANTILE) if len(rows) >= _MANY else self.usual_errors.max()
        return bool(np.median(self.errors(rows)) > limit) or (self.counted and self._are_new(rows))

    def _are_new(self, rows: np.ndarray) -> bool:
        half = np.unique(self._pairs(self.usual_rows[::2]))
        aside, asked = (~np.isin(self._pairs(index), half) for index in (self.usual_rows[1::2], rows))
        return bool(aside.mean() < 1 - _QUANTILE and len(asked) >= _MANY and asked.mean() > 0.1)

    def unexplained(self) -> np.ndarray:
        """(d,) of each moving dimension the part of the next observation's variance that the model leaves open."""
        rows = some_of(np.flatnonzero(self.dataset.valid_next), self.most)
        left = self._steps(rows) - self._features(rows)[:, : self.width] @ self.weights
        return left.var(axis=0)[~self.observations.constant]

    def _pairs(self, rows: np.ndarray) -> np.ndarray:
        """(n,) a number for each pair of states that a step leads from and to."""
        n_states = int(self.observations.high[0]) + 1
        return self.dataset.observations[rows] * n_states + self.dataset.next_observations[rows]

    def _steps(self, rows: np.ndarray, following: np.ndarray | None = None) -> np.ndarray:
        """(n, width) in standard deviations of each dimension."""
        now = self.dataset.observations[rows]
        then = self.dataset.next_observations[rows] if following is None else self.dataset.observations[following]
        return (flat_rows(then).astype(np.float64) - flat_rows(now).astype(np.float64)) / _spread(self.observations)

    def _features(self, rows: np.ndarray) -> np.ndarray:
        parts = [np.ones((len(rows), 1))]
        if len(self.observations.mean) <= _MAX_DIMENSIONS:
            parts.append((flat_rows(self.dataset.observations[rows]) - self.observations.mean) / _spread(self.observations))
        space = self.dataset.action_space
        if isinstance(space, spaces.Discrete) and int(space.n) * sum(part.shape[1] for part in parts) <= _MAX_FEATURES:
            taken = self.dataset.actions[rows].reshape(-1, 1) == space.start + np.arange(int(space.n))
            parts += [part * taken[:, [action]] for action in range(1, int(space.n)) for part in parts[:2]]
        elif len(self.actions.mean) <= _MAX_DIMENSIONS:
            parts.append((flat_rows(self.dataset.actions[rows]) - self.actions.mean) / _spread(self.actions))
        return np.concatenate(parts, axis=1)


def some_of(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, spread over them."""
    return rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), most).astype(np.int64))] if len(rows) else rows


def _spread(columns: DimensionStatistics) -> np.ndarray:
    return np.where(columns.std > 0, columns.std, 1.0)
