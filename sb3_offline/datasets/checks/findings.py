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
    """The first few rows; in data of several sources the first one also by its source."""
    more = ", ..." if len(rows) > _NAMED_ROWS else ""
    named = ("row " if len(rows) == 1 else "rows ") + ", ".join(map(str, rows[:_NAMED_ROWS])) + more
    start = 0
    for number, part in enumerate(dataset.info.card.get("parts", []), start=1):
        end = start + part.get("rows", 0)
        if start <= rows[0] < end:
            return f"{named} (the first is row {rows[0] - start} of source {number}, {part['dataset_id']})"
        start = end
    return named


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
