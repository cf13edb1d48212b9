"""What cannot be right about the order of rows: next observations that do not lead on, or that lead into another episode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sb3_offline.datasets.checks.findings import Finding, name_rows
from sb3_offline.datasets.checks.statistics import DimensionStatistics, slices
from sb3_offline.datasets.checks.surprise import are_jumps
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows, parts_of

#: A next observation is the following row's observation if they agree to these parts of a dimension's spread and value.
_SPREAD_TOLERANCE, _RELATIVE_TOLERANCE = 1e-4, 1e-5

_BYPASS = "check_data=False trains regardless."


def check_succession(dataset: OfflineDataset, observations: DimensionStatistics) -> Iterator[Finding]:
    """
    Hold each next observation against the following row.

    Inside an episode they must agree. Whether a row is inside one is for the source to say: if it marks no truncation,
    rows that do not lead on may be cuts that it did not log, which is a warning; if it marks them, it is an error. The last
    row of an episode must not lead to the first of the next one. It may where a process was only cut in the log and ran on,
    so agreement counts only where these steps are jumps (:mod:`~sb3_offline.datasets.checks.surprise`).

    :param observations: figures of the observations
    """
    follows, repeats = _compare(dataset, observations)
    known = dataset.valid_next[:-1]
    end = (dataset.terminations | dataset.truncations)[:-1]
    inside = known & ~end
    broken, crossing = inside & ~follows, known & end & follows & ~repeats

    unshifted = broken & repeats
    if unshifted.sum() > 0.5 * inside.sum():
        yield _error(
            dataset,
            "unshifted",
            unshifted,
            inside,
            "equal to the row's own observation, while the following row's differs",
            "Shift them by one row, or leave next_observations out: they are then taken from the following rows.",
        )
    elif broken.any():
        yield _broken(dataset, broken, inside)

    if crossing.any() and are_jumps(dataset, observations, np.flatnonzero(crossing), np.flatnonzero(inside & follows)):
        yield _error(
            dataset,
            "crossing",
            crossing,
            known & end,
            "the first observation of the next episode, after an episode's end",
            "Log what the env returned before its reset, or leave next_observations out: no episode is then crossed.",
        )


def _broken(dataset: OfflineDataset, broken: np.ndarray, inside: np.ndarray) -> Finding:
    what = "not the observation of the following row"
    if dataset.truncations[:-1].any():
        return _error(
            dataset,
            "broken",
            broken,
            inside,
            f"{what}, inside an episode",
            "Check the order of the rows and their shift. If rows were left out, or these are single transitions, mark each "
            "row that the next one does not continue as truncated.",
        )
    return Finding(
        "warning",
        "unmarked_cuts",
        "next_observations",
        name_rows(dataset, np.flatnonzero(broken)),
        int(broken.sum()),
        int(inside.sum()),
        "rows",
        f"{what}, and no row is marked as truncated",
        "They are trained on as single transitions. Mark them as truncated, or episodes' lengths and returns mean nothing.",
    )


def _error(dataset: OfflineDataset, check: str, rows: np.ndarray, among: np.ndarray, what: str, advice: str) -> Finding:
    where, count = name_rows(dataset, np.flatnonzero(rows)), int(rows.sum())
    return Finding("error", check, "next_observations", where, count, int(among.sum()), "rows", what, f"{advice} {_BYPASS}")


def _compare(dataset: OfflineDataset, observations: DimensionStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Of each row but the last, (n - 1,): whether its next observation is the following row's, and whether it is its own."""
    n, width = len(dataset) - 1, len(observations.mean)
    follows, repeats = np.empty(n, dtype=bool), np.empty(n, dtype=bool)
    one_row = parts_of(dataset.observations[:1])
    rounded = np.concatenate([np.full(part.size, part.dtype.kind == "f") for part in one_row])
    tolerance = np.where(rounded, _SPREAD_TOLERANCE * observations.std, 0).astype(np.float32)
    relative = np.where(rounded, _RELATIVE_TOLERANCE, 0).astype(np.float32)
    for part in slices(n, 4 * width):
        following = slice(part.start + 1, part.stop + 1)
        now, after = (flat_rows(dataset.observations[rows]).astype(np.float32) for rows in (part, following))
        then = flat_rows(dataset.next_observations[part]).astype(np.float32)
        with np.errstate(over="ignore"):  # finite, but far apart
            follows[part] = (np.abs(then - after) <= tolerance + relative * np.abs(after)).all(axis=1)
        repeats[part] = (then == now).all(axis=1)
    return follows, repeats
