"""What cannot be right about the order of rows: next observations that do not lead on, or that lead into another episode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sb3_offline.datasets.checks.ends_of_episodes import check_ends, inferred_resets
from sb3_offline.datasets.checks.findings import Finding, succession_error, succession_warning
from sb3_offline.datasets.checks.interleaving import stride_of_rows, stride_of_successors
from sb3_offline.datasets.checks.statistics import DimensionStatistics, slices
from sb3_offline.datasets.checks.surprise import StepModel
from sb3_offline.datasets.checks.unmarked import check_unmarked_ends
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows, parts_of

#: A next observation is the following row's observation if they agree to these parts of a dimension's spread and value.
_SPREAD_TOLERANCE, _RELATIVE_TOLERANCE = 1e-4, 1e-5


def check_succession(dataset: OfflineDataset, observations: DimensionStatistics) -> Iterator[Finding]:
    """
    Hold each next observation against the following row.

    Inside an episode they must agree. Whether a row is inside one is for the source to say: if it marks no truncation,
    rows that do not lead on may be cuts that it did not log, which is a warning; if it marks them, it is an error. The last
    row of an episode must not lead to the first of the next one. It may where a process was only cut in the log and ran on,
    so agreement counts only where these steps are jumps (:mod:`~sb3_offline.datasets.checks.surprise`). What the last rows
    lead to is held against the same model (:mod:`~sb3_offline.datasets.checks.ends_of_episodes`), and so is the order of rows
    where successors were taken from it.

    :param observations: figures of the observations
    """
    follows, repeats = _compare(dataset, observations)
    end = dataset.terminations | dataset.truncations
    inside = dataset.valid_next & ~end
    inside[-1] = False
    broken, unshifted = inside & ~follows, inside & ~follows & repeats
    after_end = np.append(False, end[:-1])
    usual = inside & follows & ~after_end  # the first row of an episode may be what a reset left behind
    model = StepModel(dataset, observations, np.flatnonzero(usual if usual.any() else inside & follows))

    resets = inferred_resets(dataset, model)
    stride = stride_of_successors(dataset, broken) if broken.sum() > 0.5 * inside.sum() else None
    if unshifted.sum() > 0.5 * inside.sum():
        yield succession_error(
            dataset,
            "unshifted",
            unshifted,
            inside,
            "equal to the row's own observation, while the following row's differs",
            "Shift them by one row, or leave next_observations out: they are then taken from the following rows.",
        )
    elif stride is not None:
        yield _interleaved(dataset, stride, broken, inside)
    elif broken.any():
        yield _broken(dataset, broken, inside)
    elif inside.any():
        stride = stride_of_rows(dataset, observations, model)
        if stride is not None:
            yield _interleaved(dataset, stride, inside, inside)
        else:
            yield from check_unmarked_ends(dataset, observations, model, inside & ~resets)
    yield from check_ends(dataset, model, follows, repeats, resets)


def _interleaved(dataset: OfflineDataset, stride: int, rows: np.ndarray, among: np.ndarray) -> Finding:
    return succession_error(
        dataset,
        "interleaved",
        rows,
        among,
        f"continued not by the following row but by the one {stride} rows on, as if steps of {stride} environments took turns",
        f"Put one environment after the other: x.reshape(-1, {stride}, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape) of every "
        "array, and mark the last row of each environment as truncated.",
    )


def _broken(dataset: OfflineDataset, broken: np.ndarray, inside: np.ndarray) -> Finding:
    what = "not the observation of the following row"
    in_its_source = ", in its source's truncations" if dataset.info.card.get("parts") else ""
    if dataset.truncations[:-1].any():
        return succession_error(
            dataset,
            "broken",
            broken,
            inside,
            f"{what}, inside an episode",
            "Check the order of the rows and their shift. If rows were left out, or these are single transitions, mark each "
            f"row that the next one does not continue as truncated{in_its_source}.",
        )
    return succession_warning(
        dataset,
        "unmarked_cuts",
        broken,
        inside,
        f"{what}, and no row is marked as truncated",
        "They are trained on as single transitions. Mark them as truncated, or episodes' lengths and returns mean nothing.",
    )


def _compare(dataset: OfflineDataset, observations: DimensionStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Of each row, (n,): whether its next observation is the following row's, and whether it is its own."""
    n, width = len(dataset), len(observations.mean)
    follows, repeats = np.zeros(n, dtype=bool), np.empty(n, dtype=bool)
    one_row = parts_of(dataset.observations[:1])
    rounded = np.concatenate([np.full(part.size, part.dtype.kind == "f") for part in one_row])
    tolerance = np.where(rounded, _SPREAD_TOLERANCE * observations.std, 0).astype(np.float32)
    relative = np.where(rounded, _RELATIVE_TOLERANCE, 0).astype(np.float32)
    for part in slices(n, 4 * width):
        now, then = (flat_rows(array[part]).astype(np.float32) for array in (dataset.observations, dataset.next_observations))
        repeats[part] = (then == now).all(axis=1)
        after = flat_rows(dataset.observations[part.start + 1 : part.stop + 1]).astype(np.float32)
        with np.errstate(over="ignore"):  # finite, but far apart
            near = np.abs(then[: len(after)] - after) <= tolerance + relative * np.abs(after)
        follows[part.start : part.start + len(after)] = near.all(axis=1)
    return follows, repeats
