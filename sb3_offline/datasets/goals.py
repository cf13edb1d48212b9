"""Data with goals: what else they could have been, as hindsight experience replay asks (Andrychowicz et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

from gymnasium import spaces

from sb3_offline.arguments import check_count
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.goal_relabelling import GoalRelabelling, Strategy
from sb3_offline.datasets.offline_dataset import OfflineDataset

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


def check_strategy(name: str, value: Strategy) -> Strategy:
    """:raises ValueError: for none of them"""
    if value not in get_args(Strategy):
        raise ValueError(f"{name} must be one of {get_args(Strategy)}, got {value!r}.")
    return value


def relabel_goals(
    dataset: OfflineDataset,
    compute_reward: Callable[[Any, Any, Any], Any],
    n_sampled_goal: int = 4,
    goal_selection_strategy: Strategy = "future",
    compute_terminated: Callable[[Any, Any, Any], Any] | None = None,
) -> OfflineDataset:
    """
    The same rows, of which model-free algorithms draw each with another goal in ``n_sampled_goal`` of ``n_sampled_goal + 1``
    cases: one that was achieved by the row itself or later in its episode ("future"), at the episode's end ("final"), or
    anywhere in it ("episode"). The reward is computed again. The options are those of SB3's ``HerReplayBuffer``.

    :param dataset: with observations of a Dict space with the keys ``observation``, ``achieved_goal`` and ``desired_goal``
    :param compute_reward: (achieved goals (b, d), desired goals (b, d), infos, which are empty) to rewards (b,): an env's own,
        ``env.unwrapped.compute_reward``. The achieved goal is that of the next observation
    :param compute_terminated: likewise, whether the task ends at the goal; if not given, terminations stay as logged
    :raises DatasetError: for observations without goals
    :raises ValueError: for another strategy, or a count below 1
    """
    space = dataset.observation_space
    has_goals = isinstance(space, spaces.Dict) and set(GOAL_KEYS) <= set(space)
    if not has_goals or space["achieved_goal"].shape != space["desired_goal"].shape:  # type: ignore[index]
        raise DatasetError(
            f"{dataset.info.dataset_id}: goals are found in observations of a Dict space with {', '.join(GOAL_KEYS)}, and "
            f"achieved ones look as desired ones do; these live in {space}."
        )
    check_strategy("goal_selection_strategy", goal_selection_strategy)
    count = check_count("n_sampled_goal", n_sampled_goal)
    goals = GoalRelabelling(compute_reward, count, goal_selection_strategy, compute_terminated)
    return replace(dataset, info=replace(dataset.info, goals=goals))
