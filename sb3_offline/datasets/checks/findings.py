"""One thing that is wrong with data, or looks so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sb3_offline.datasets.offline_dataset import OfflineDataset

_NAMED_ROWS = 3


@dataclass(frozen=True)
class Finding:
    """
    Its text is one line: what, where, how many, and what to do.

    :param severity: an "error" cannot be right, a "warning" probably is not
    :param check: the check's name, as in the documentation's table
    :param key: the array, such as "actions"
    :param where: the row, rows, dimension or episodes meant; empty for all of the array
    :param count: how many of ``total`` are concerned
    :param unit: what is counted: "rows", "episodes" or "dimensions"
    """

    severity: Literal["error", "warning"]
    check: str
    key: str
    where: str
    count: int
    total: int
    unit: str
    what: str
    advice: str

    def __str__(self) -> str:
        place = f"{self.key}, {self.where}" if self.where else self.key
        return f"{place}: {self.what} ({self.count:,} of {self.total:,} {self.unit}). {self.advice}"


def name_rows(dataset: OfflineDataset, rows: np.ndarray) -> str:
    """The first few rows; in data of several sources by the source's own number, too, and how many sources are concerned."""
    more = ", ..." if len(rows) > _NAMED_ROWS else ""
    named = ("row " if len(rows) == 1 else "rows ") + ", ".join(map(str, rows[:_NAMED_ROWS])) + more
    card = dataset.info.card
    parts = card.get("parts", [])
    left_out = any("dropped_rows" in facts for facts in (card, *parts))
    counted = ", counted without those that were left out" if left_out else ""
    if not parts:
        return named + counted
    starts = np.cumsum([0, *(part.get("rows", 0) for part in parts)])
    sources = np.searchsorted(starts, rows, side="right") - 1
    first = rows[:_NAMED_ROWS], sources[:_NAMED_ROWS]
    places = []
    for source in np.unique(first[1]):
        own = first[0][first[1] == source] - starts[source]
        numbers = ("row " if len(own) == 1 else "rows ") + ", ".join(map(str, own))
        places.append(f"{numbers} of source {source + 1}, {parts[source]['dataset_id']}")
    concerned = len(np.unique(sources))
    others = f"; {concerned} of {len(parts)} sources are concerned" if concerned > len(places) else ""
    return f"{named} ({'; '.join(places)}{others}{counted})"


def name_dimensions(dimensions: np.ndarray) -> str:
    """ "dimension 2", or "dimensions 0, 3"."""
    return ("dimension " if len(dimensions) == 1 else "dimensions ") + ", ".join(map(str, dimensions))


#: Said with every error of the order of rows: who knows better goes on.
_BYPASS = "check_data=False trains regardless."


def succession_error(
    dataset: OfflineDataset,
    check: str,
    rows: np.ndarray,
    among: np.ndarray,
    what: str,
    advice: str,
    key: str = "next_observations",
) -> Finding:
    """
    :param rows: those that are meant, (n,) bool or their numbers in order
    :param among: (n,) bool, those that were looked at
    """
    found = succession_warning(dataset, check, rows, among, what, f"{advice} {_BYPASS}", key)
    return replace(found, severity="error")


def succession_warning(
    dataset: OfflineDataset,
    check: str,
    rows: np.ndarray,
    among: np.ndarray,
    what: str,
    advice: str,
    key: str = "next_observations",
) -> Finding:
    """As :func:`succession_error`, of what may be right."""
    meant = np.flatnonzero(rows) if rows.dtype == bool else rows
    return Finding("warning", check, key, name_rows(dataset, meant), len(meant), int(among.sum()), "rows", what, advice)
