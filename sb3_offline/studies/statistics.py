"""
What runs of several seeds on several tasks say together, as rliable defines it (Agarwal et al. 2021, arXiv 2108.13264).

Scores are one array of runs a task: tasks may have different numbers of runs. Intervals are percentiles of a bootstrap that is
stratified by task: within each, its runs are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Scores = Sequence[np.ndarray]
"""Of each task the runs' scores, (n_runs,)."""

REPEATS = 2000


class Interval(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> float:
    """Mean of the middle half of all runs of all tasks."""
    runs = np.sort(np.concatenate(scores))
    cut = len(runs) // 4
    return float(runs[cut : len(runs) - cut].mean())


def profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs whose score lies above each threshold, a mean over tasks of equal weight a run: (n_thresholds,)."""
    runs = np.concatenate(scores)
    return (runs[None, :] > thresholds[:, None]).mean(axis=1)


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """P(X > Y) of a run of each on a task, ties half: the Mann-Whitney U statistic over all pairs; mean over tasks."""
    gaps = [mine[:, None] - yours[None, :] for mine, yours in zip(scores, others, strict=True)]
    return float(np.mean([0.5 + 0.5 * np.sign(gap).mean() for gap in gaps]))


def bootstrap(scores: Sequence[Scores], figure: Callable[..., float], repeats: int = REPEATS, seed: int = 0) -> Interval:
    """
    A figure of one or more algorithms' scores, and its interval; a single run a task has none (it is nan).

    :param scores: of each algorithm
    :param figure: of as many arguments
    """
    value = figure(*scores)
    if any(len(runs) < 2 for own in scores for runs in own):
        return Interval(value, float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    drawn = [figure(*([generator.choice(runs, len(runs)) for runs in own] for own in scores)) for _ in range(repeats)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def profile_band(scores: Scores, thresholds: np.ndarray, repeats: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % of each point of a profile: low and high, (n_thresholds,) each."""
    generator = np.random.default_rng(seed)
    drawn = [profile([generator.choice(runs, len(runs)) for runs in scores], thresholds) for _ in range(repeats)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high
