"""The data card: what a data set holds, and what in it will make trouble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_offline.datasets import OfflineDataset
from sb3_offline.datasets.checks import Finding, check_dataset
from sb3_offline.datasets.checks.statistics import Statistics, measure
from sb3_offline.datasets.parts import flat_rows

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
class DataCard:
    """
    Figures of a data set; shares lie in [0, 1].

    ``duplicates`` is the share of rows whose transition an earlier row has had; ``effective_dimensions`` is
    (sum l)^2 / sum l^2 over the eigenvalues l of the standardised observations' covariance: in how many directions the
    states vary. ``reading`` says how the data were read: mapped, sorted, cut, dropped.
    """

    summary: dict[str, Any]
    description: str
    reading: list[str]
    returns: np.ndarray
    lengths: np.ndarray
    histograms: dict[str, Histogram]
    statistics: Statistics
    duplicates: float
    effective_dimensions: float
    plane: np.ndarray
    findings: list[Finding]


def make_card(dataset: OfflineDataset) -> DataCard:
    """Look at every row once. ``plane`` is at most 2,000 rows' first two principal components, (n, 2)."""
    returns, lengths = dataset.episode_returns(), dataset.episode_lengths()
    eigenvalues, plane = _principal(dataset.observations)
    statistics = measure(dataset)
    return DataCard(
        summary=dataset.summary(),
        description=str(dataset.info.card.get("description", "")),
        reading=_reading(dataset.info.card),
        returns=returns,
        lengths=lengths,
        histograms={
            "episode return": Histogram.of(returns),
            "episode length": Histogram.of(lengths),
            "reward": Histogram.of(dataset.rewards),
            **{
                f"action {i}": Histogram.of(column) for i, column in enumerate(dataset.actions.reshape(len(dataset), -1).T[:8])
            },
        },
        statistics=statistics,
        duplicates=len(statistics.duplicates) / len(dataset),
        effective_dimensions=float(eigenvalues.sum() ** 2 / max(np.square(eigenvalues).sum(), 1e-300)),
        plane=plane,
        findings=check_dataset(dataset, statistics),
    )


def _reading(card: dict[str, Any]) -> list[str]:
    """Of several sources what was done to each."""
    parts = [
        f"source {number}, {part['dataset_id']}: {line}"
        for number, part in enumerate(card.get("parts", []), start=1)
        for line in _reading(part)
    ]
    facts = {
        "next observations": card.get("next_observations"),
        "spaces from the data": card.get("derived_spaces"),
        "rows dropped": card.get("dropped_rows"),
    }
    return [*parts, *card.get("reading", []), *(f"{name}: {value}" for name, value in facts.items() if value)]


def _principal(observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the correlation matrix, and rows spread over the data in its first two directions."""
    if flat_rows(observations[:1]).shape[1] > 512:  # images: no covariance of pixels
        return np.ones(1), np.empty((0, 2))
    flat = flat_rows(observations[:]).astype(np.float64)
    std = flat.std(axis=0)
    scaled = (flat - flat.mean(axis=0)) / np.where(std > 0, std, 1.0)
    eigenvalues, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    rows = np.unique(np.linspace(0, len(flat) - 1, 2000).astype(int))
    plane = scaled[rows] @ vectors[:, ::-1][:, :2]
    return np.maximum(eigenvalues, 0.0), plane if plane.shape[1] == 2 else np.column_stack([plane, np.zeros(len(rows))])
