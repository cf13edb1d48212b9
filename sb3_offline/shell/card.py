"""The data card: what a data set holds, and what in it will make trouble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_offline.datasets import OfflineDataset

_BINS = 20


@dataclass(frozen=True)
class Histogram:
    """Counts (k,) between edges (k + 1,)."""

    counts: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, bins: int = _BINS) -> Histogram:
        return cls(*np.histogram(values.astype(np.float64), bins=bins))


@dataclass(frozen=True)
class Dimension:
    """One number of the observation or of the action, over all rows."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class DataCard:
    """
    Figures of a data set; shares lie in [0, 1].

    ``saturation`` is the share of rows at a bound of the action space, for each action dimension; ``duplicates`` that of
    rows whose (s, a) an earlier row has had; ``action_coverage`` that of 20 bins of each action dimension's range which
    hold a row; ``effective_dimensions`` is (sum l)^2 / sum l^2 over the eigenvalues l of the standardised observations'
    covariance: in how many directions the states vary.
    """

    summary: dict[str, Any]
    description: str
    returns: np.ndarray
    lengths: np.ndarray
    histograms: dict[str, Histogram]
    observations: list[Dimension]
    actions: list[Dimension]
    saturation: list[float]
    action_coverage: list[float]
    duplicates: float
    effective_dimensions: float
    plane: np.ndarray
    warnings: list[str]


def make_card(dataset: OfflineDataset) -> DataCard:
    """Look at every row once. ``plane`` is at most 2,000 rows' first two principal components, (n, 2)."""
    flat = dataset.observations.reshape(len(dataset), -1).astype(np.float64)
    actions = dataset.actions.reshape(len(dataset), -1).astype(np.float64)
    returns, lengths = dataset.episode_returns(), dataset.episode_lengths()
    eigenvalues, plane = _principal(flat)
    card = DataCard(
        summary=dataset.summary(),
        description=str(dataset.info.card.get("description", "")),
        returns=returns,
        lengths=lengths,
        histograms={
            "episode return": Histogram.of(returns),
            "episode length": Histogram.of(lengths),
            "reward": Histogram.of(dataset.rewards),
            **{f"action {i}": Histogram.of(column) for i, column in enumerate(actions.T[:8])},
        },
        observations=[_dimension(column) for column in flat.T],
        actions=[_dimension(column) for column in actions.T],
        saturation=list(_saturation(dataset)),
        action_coverage=list(_coverage(dataset)),
        duplicates=_duplicates(flat, actions),
        effective_dimensions=float(eigenvalues.sum() ** 2 / max(np.square(eigenvalues).sum(), 1e-300)),
        plane=plane,
        warnings=[],
    )
    card.warnings.extend(_warnings(dataset, card))
    return card


def _dimension(column: np.ndarray) -> Dimension:
    return Dimension(float(column.mean()), float(column.std()), float(column.min()), float(column.max()))


def _principal(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the correlation matrix, and rows spread over the data in its first two directions."""
    if flat.shape[1] > 512:  # images: no covariance of pixels
        return np.ones(1), np.empty((0, 2))
    std = flat.std(axis=0)
    scaled = (flat - flat.mean(axis=0)) / np.where(std > 0, std, 1.0)
    eigenvalues, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    rows = np.unique(np.linspace(0, len(flat) - 1, 2000).astype(int))
    plane = scaled[rows] @ vectors[:, ::-1][:, :2]
    return np.maximum(eigenvalues, 0.0), plane if plane.shape[1] == 2 else np.column_stack([plane, np.zeros(len(rows))])


def _duplicates(flat: np.ndarray, actions: np.ndarray) -> float:
    rows = np.ascontiguousarray(np.hstack([flat, actions]))
    unique = np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))))
    return 1.0 - len(unique) / len(rows)


def _saturation(dataset: OfflineDataset) -> Iterator[float]:
    space = dataset.action_space
    if isinstance(space, spaces.Box):
        margin = 1e-3 * (space.high - space.low)
        at_bound = (dataset.actions <= space.low + margin) | (dataset.actions >= space.high - margin)
        yield from at_bound.reshape(len(dataset), -1).mean(axis=0).tolist()


def _coverage(dataset: OfflineDataset) -> Iterator[float]:
    space = dataset.action_space
    if isinstance(space, spaces.Discrete):
        yield len(np.unique(dataset.actions)) / int(space.n)
    elif isinstance(space, spaces.Box) and np.isfinite(space.high - space.low).all():
        columns = dataset.actions.reshape(len(dataset), -1).T
        for column, low, high in zip(columns, space.low.flatten(), space.high.flatten(), strict=True):
            yield float((np.histogram(column, bins=_BINS, range=(low, high))[0] > 0).mean())


def _warnings(dataset: OfflineDataset, card: DataCard) -> Iterator[str]:
    """What is worth a look before training; each says what to do."""
    n, ends = len(dataset), dataset.episode_ends
    if n < 5000:
        yield f"Only {n:,} transitions: a dynamics model (COMBO, DROMO) will be poor; prefer CQL, or bring more data."
    if dataset.n_episodes == 1:
        yield "One single episode: if it is several, mark their ends in terminations and truncations."
    limit = None if dataset.env_spec is None else dataset.env_spec.max_episode_steps
    at_limit = int((dataset.terminations[ends] & (card.lengths == limit)).sum()) if limit else 0
    if at_limit:
        yield (
            f"{at_limit} episodes terminate exactly at the time limit of {limit} steps: if they were cut, mark them as "
            "truncations, or the value beyond them is taken for zero."
        )
    if not dataset.terminations.any() and not dataset.truncations.any() and dataset.n_episodes > 1:
        yield "No episode ends are marked."
    missing = int((~dataset.valid_next).sum())
    if missing:
        yield f"{missing:,} terminal rows have no next observation: the dynamics model does not learn from them. Log them."
    if card.duplicates > 0.01:
        yield f"{card.duplicates:.1%} of the rows repeat an earlier (observation, action): were parts concatenated twice?"
    for i, share in enumerate(card.saturation):
        if share > 0.3:
            yield f"Action {i} is at a bound in {share:.0%} of the rows: the behaviour policy's density is hard to fit there."
    constant = [i for i, d in enumerate(card.observations) if d.std == 0]
    if constant:
        yield f"Observation dimensions {constant} never change."
    spread = [d.std for d in card.observations if d.std > 0]
    if spread and max(spread) / min(spread) > 1e3:
        yield (
            f"Observation scales differ by a factor of {max(spread) / min(spread):.0g}: consider VecNormalize "
            "(norm_reward=False)."
        )
    for i, (dimension, share) in enumerate(zip(card.actions, card.action_coverage, strict=False)):
        if share < 0.25:
            yield (
                f"Action {i} stays within {share:.0%} of its range ({dimension.low:.3g} to {dimension.high:.3g}): the data "
                "are narrow, so keep to a larger conservative_weight."
            )
    if dataset.rewards.std() == 0:
        yield f"All rewards are {dataset.rewards[0]:g}: there is nothing to learn."
    elif (zeros := float((dataset.rewards == 0).mean())) > 0.9:
        yield f"{zeros:.0%} of the rewards are zero: sparse rewards need long horizons; look at gamma."
