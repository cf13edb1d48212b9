"""What the last rows of episodes lead to, and the rows after them: true steps of the task, or what was filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from sb3_offline.datasets.checks.findings import Finding, succession_error, succession_warning
from sb3_offline.datasets.checks.statistics import hash_rows
from sb3_offline.datasets.checks.surprise import StepModel, some_of
from sb3_offline.datasets.offline_dataset import OfflineDataset
from sb3_offline.datasets.parts import flat_rows

_FEW = 3  # rows: fewer tell nothing of how they came about
_LOOKED_AT = 20_000  # steps inside episodes
_RARE = 0.01  # share of usual steps that go nowhere
_ALIKE = 3.0  # mean square distance from first observations, in their variances
_LEAVE_OUT = "or leave next_observations out: no step is then taken from them"


def check_ends(
    dataset: OfflineDataset, model: StepModel, follows: np.ndarray, repeats: np.ndarray, inferred: np.ndarray
) -> Iterator[Finding]:
    """
    :param model: of the steps inside episodes
    :param follows: (n,) whether a row's next observation is the following row's
    :param repeats: (n,) whether it is its own
    :param inferred: (n,) :func:`inferred_resets`
    """
    end = dataset.terminations | dataset.truncations
    known = dataset.valid_next & end
    leads_on = known & follows
    if (model.weights is None or model.counted) and leads_on.sum() <= 0.5 * known.sum():
        leads_on[:] = False  # of single transitions in any order, and of few states, some are followed so by chance
    runs_on = leads_on & ~repeats
    if not model.counted and (runs_on & dataset.terminations).sum() > 0.5 * len(dataset):
        yield succession_warning(
            dataset,
            "terminal_rows_go_on",
            runs_on & dataset.terminations,
            known & dataset.terminations,
            "are terminal, and the following row goes on from where they led",
            "If these are masks, which are 1 where the value goes on, give terminations = 1 - masks.",
            key="terminations",
        )
    after = np.append(False, leads_on[:-1]) & dataset.valid_next
    resets = _reset_rows(model, after)
    if resets.any():
        yield _rows_after(dataset, resets, succession_error)
    elif runs_on.any() and model.are_jumps(np.flatnonzero(runs_on)):
        yield succession_error(
            dataset,
            "crossing",
            runs_on,
            known & (np.arange(len(end)) < len(end) - 1),
            "the first observation of the next episode, after an episode's end",
            "Log what the env returned before its reset, or leave next_observations out: no episode is then crossed.",
        )
    elif _alone_unrewarded(dataset, after):
        yield _rows_after(dataset, after, succession_warning)
    elif inferred.any():
        yield _rows_after(dataset, inferred, succession_warning)
    if not (~end).any():  # single transitions
        return
    for cuts, rows in ((True, known & ~follows & dataset.truncations), (False, known & ~follows & dataset.terminations)):
        if rows.any():
            yield from _successors(dataset, model, rows, repeats, cuts=cuts)


def _reset_rows(model: StepModel, after: np.ndarray) -> np.ndarray:
    """
    (n,) bool: rows that begin where the last episode ended and jump from there, farther than those last steps of episodes did:
    not a step of the task, but a reset. None if these are no jumps.
    """
    before = np.append(after[1:], False)
    if after.any() and model.weights is not None and model.are_jumps(np.flatnonzero(after)):
        errors = [np.median(model.errors(some_of(np.flatnonzero(rows), model.most))) for rows in (before, after)]
        if errors[1] >= errors[0]:
            return after
    return np.zeros_like(after)


def _alone_unrewarded(dataset: OfflineDataset, after: np.ndarray) -> bool:
    """Whether these rows, a few at least, have the reward zero and hardly any other has."""
    unrewarded = dataset.rewards == 0
    return bool(after.sum() >= _FEW and unrewarded[after].all() and unrewarded[~after].mean() < _RARE)


def inferred_resets(dataset: OfflineDataset, model: StepModel) -> np.ndarray:
    """
    (n,) bool: most first rows of episodes, if they are resets, in data whose successors are the following rows: unrewarded, as
    hardly any other row is, and from them it jumps; or all of them lead from elsewhere to where the very first row begins.
    None where that cannot be told. The first rows of each environment's log are no resets.
    """
    end = dataset.terminations | dataset.truncations
    begun = np.append(False, end[:-1]) & dataset.valid_next
    found = np.flatnonzero(begun & (dataset.rewards == 0))
    resets = np.zeros_like(begun)
    if not dataset.info.successors_inferred or len(found) < max(_FEW, 0.5 * begun.sum()):
        return resets
    start = flat_rows(dataset.observations[:1])
    elsewhere = found[(flat_rows(dataset.observations[found]) != start).any(axis=1)]
    lead_there = bool((flat_rows(dataset.next_observations[elsewhere]) == start).all())
    if lead_there and len(elsewhere) >= max(_FEW, 0.5 * begun.sum()):
        resets[elsewhere] = True
        return resets
    resets[found] = True
    if _alone_unrewarded(dataset, resets) and model.weights is not None and model.are_jumps(found):
        return resets
    return np.zeros_like(begun)


def _rows_after(dataset: OfflineDataset, after: np.ndarray, finding: Callable[..., Finding]) -> Finding:
    if (dataset.rewards[after] == 0).mean() > 0.99:
        cause = "as the rows in which gymnasium's vector environments reset: the action was ignored, the reward is zero"
        advice = (
            "Drop them: kept = ~numpy.append(False, (terminations | truncations)[:-1]), and x[kept] of every array; or "
            "collect with AutoresetMode.SAME_STEP."
        )
    else:
        cause = "as if env.reset()'s observation had not been taken up"
        advice = "Put what reset returned in place of these observations, or drop these rows."
    return finding(
        dataset,
        "reset_rows",
        after,
        np.append(False, (dataset.terminations | dataset.truncations)[:-1]),
        f"begin with the last observation of the episode before, {cause}",
        advice,
        key="observations",
    )


def _successors(
    dataset: OfflineDataset, model: StepModel, rows: np.ndarray, repeats: np.ndarray, *, cuts: bool
) -> Iterator[Finding]:
    """
    Next observations of last rows: all the same, the row's own, or otherwise no step of the task.

    :param cuts: whether the episodes were cut there. Where they terminated a task may show whatever it likes, and only a
        dynamics model looks at it
    """
    kind = "truncated" if cuts else "terminal"
    unknown = "write NaN in such rows, which is read as not logged" if cuts else "set valid_next to False in such rows"
    filled = np.zeros_like(rows) if model.counted else _filled(dataset, rows, ~(dataset.terminations | dataset.truncations))
    jumps = bool(filled.any()) and model.are_jumps(np.flatnonzero(filled))
    if jumps or (cuts and _from_many_places(dataset, filled)):
        value = flat_rows(dataset.next_observations[np.flatnonzero(filled)[:1]])[0]
        shown = f"all {value[0]:g}" if (value == value[0]).all() else "the same numbers"
        finding = succession_error if cuts and jumps else succession_warning
        yield finding(
            dataset,
            "filled_ends",
            filled,
            rows,
            f"{shown} in {kind} rows, where no other step leads: filled in",
            f"Log what the env returned last, {unknown}, {_LEAVE_OUT}.",
        )
    stays = rows & repeats & ~filled
    usual = repeats[~(dataset.terminations | dataset.truncations)]
    if cuts and stays.sum() >= _FEW and stays.sum() > 0.5 * rows.sum() and usual.mean() < _RARE:
        yield succession_warning(
            dataset,
            "repeated_ends",
            stays,
            rows,
            f"the row's own observation in {kind} rows, while no other step stays where it is: filled in",
            f"Log what the env returned last, {unknown}, {_LEAVE_OUT}.",
        )
    rest = np.flatnonzero(rows & ~repeats & ~filled)
    if cuts and not model.counted and len(rest) >= _FEW and len(model.usual_errors) and model.are_jumps(rest):
        cause = "what env.reset() returned" if _look_like_starts(dataset, rest) else "another row's"
        yield succession_warning(
            dataset,
            "jumps_at_ends",
            rest,
            rows,
            f"far from where the task's steps lead, in {kind} rows: perhaps {cause}",
            f"Log what the env returned last, {unknown}, {_LEAVE_OUT}.",
        )


def _filled(dataset: OfflineDataset, rows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(n,) bool: those with the next observation that most of them share, if a few do and no other step leads there."""
    index = np.flatnonzero(rows)
    _, inverse, counts = np.unique(hash_rows(dataset.next_observations[index]), return_inverse=True, return_counts=True)
    filled = np.zeros(len(rows), dtype=bool)
    if counts.max() >= _FEW:
        shared = index[inverse.reshape(-1) == counts.argmax()]
        others = flat_rows(dataset.next_observations[some_of(np.flatnonzero(inside), _LOOKED_AT)])
        filled[shared] = not (others == flat_rows(dataset.next_observations[shared[:1]])).all(axis=1).any()
    return filled


def _from_many_places(dataset: OfflineDataset, rows: np.ndarray) -> bool:
    """Whether the observations of these rows are all different: an episode that is played again in every detail ends alike."""
    index = np.flatnonzero(rows)
    return len(index) >= _FEW and len(np.unique(hash_rows(dataset.observations[index]))) == len(index)


def _look_like_starts(dataset: OfflineDataset, rows: np.ndarray) -> bool:
    starts = np.append(0, np.flatnonzero(dataset.terminations | dataset.truncations)[:-1] + 1)
    first = flat_rows(dataset.observations[starts]).astype(np.float64)
    apart = (flat_rows(dataset.next_observations[rows]) - first.mean(axis=0)) / np.maximum(first.std(axis=0), 1e-6)
    return bool(np.median(np.square(apart).mean(axis=1)) < _ALIKE)
