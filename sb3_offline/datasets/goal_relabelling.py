"""How goals are replaced where batches are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Strategy = Literal["future", "final", "episode"]


@dataclass(frozen=True)
class GoalRelabelling:
    """
    How goals are replaced where batches are drawn; see :func:`~sb3_offline.datasets.relabel_goals`.

    :param compute_reward: (achieved (b, d), desired (b, d), infos) to rewards (b,), as SB3's goal environments have it
    :param n_sampled_goal: replaced goals for each one that is kept
    :param goal_selection_strategy: which of the episode's achieved goals take its place
    :param compute_terminated: (achieved, desired, infos) to whether the task ends there (b,); the logged terminations if None
    """

    compute_reward: Callable[[Any, Any, Any], Any]
    n_sampled_goal: int
    goal_selection_strategy: Strategy
    compute_terminated: Callable[[Any, Any, Any], Any] | None
