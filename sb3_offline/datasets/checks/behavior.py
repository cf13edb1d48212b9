"""How much the logged actions vary where the observation does not: nothing, if one deterministic policy made the data."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets.bounded import is_bounded
from sb3_offline.datasets.checks.statistics import Statistics
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows

_QUERIES, _POOL = 128, 20_000
_APART = 50  # rows: nearer ones may share their noise, if it is correlated in time
_MAX_DIMENSIONS = 64  # nearest neighbours of images say nothing


def action_noise(dataset: OfflineDataset, statistics: Statistics) -> float | None:
    """
    The median distance between an action and what a linear fit to the nearest observations' actions predicts, in parts of
    the action space's span; the largest over action dimensions. It is above the behaviour policy's noise by the error of
    that fit, so a small value is evidence of a deterministic policy while a large one is none of noise.

    Rows with an action at a bound are left out (there any policy is the same), as are dimensions that never change.

    :return: None where it cannot be told: discrete actions, images, an unbounded action space, or too few rows
    """
    space = dataset.action_space
    flat_dim = len(statistics.observations.mean)
    if not isinstance(space, spaces.Box) or not is_bounded(space) or flat_dim > _MAX_DIMENSIONS:
        return None
    rows = np.unique(np.linspace(0, len(dataset) - 1, _POOL).astype(np.int64))
    span = (space.high - space.low).reshape(-1)
    actions = (dataset.actions[rows].reshape(len(rows), -1) - space.low.reshape(-1)) / np.where(span > 0, span, 1)
    free = ((actions > 1e-3) & (actions < 1 - 1e-3)).all(axis=1)
    rows, actions = rows[free], actions[free][:, ~statistics.actions.constant].astype(np.float64)
    moving = ~statistics.observations.constant
    n_neighbors = 3 * (int(moving.sum()) + 1)
    if actions.shape[1] == 0 or len(rows) < 4 * n_neighbors:
        return None
    spread, center = statistics.observations.std[moving], statistics.observations.mean[moving]
    states = (flat_rows(dataset.observations[rows])[:, moving] - center) / spread
    queries = np.unique(np.linspace(0, len(rows) - 1, _QUERIES).astype(np.int64))
    residuals = _residuals(states, actions, rows, queries, n_neighbors)
    return float(np.median(np.abs(residuals), axis=0).max()) if len(residuals) else None


def _residuals(states: np.ndarray, actions: np.ndarray, rows: np.ndarray, queries: np.ndarray, n_neighbors: int) -> np.ndarray:
    """(m, action_dim): action minus the local linear prediction from other rows, of queries with neighbors enough."""
    squares = np.square(states).sum(axis=1)
    distances = squares[queries, None] + squares[None] - 2 * states[queries] @ states.T
    excluded = np.abs(rows[queries, None] - rows[None]) < _APART
    distances[excluded | (distances < 1e-12)] = np.inf  # a copy of the row has its noise, too
    enough = np.isfinite(distances).sum(axis=1) >= n_neighbors
    queries, distances = queries[enough], distances[enough]
    nearest = np.argpartition(distances, n_neighbors, axis=1)[:, :n_neighbors]
    offsets = states[nearest] - states[queries, None]  # (q, k, d)
    design = np.concatenate([np.ones((*offsets.shape[:2], 1)), offsets], axis=2)
    gram = design.transpose(0, 2, 1) @ design
    ridge = 1e-6 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(gram.shape[1]) / gram.shape[1]
    fitted = np.linalg.solve(gram + ridge, design.transpose(0, 2, 1) @ actions[nearest])
    return actions[queries] - fitted[:, 0]  # the fit's value at the query itself
