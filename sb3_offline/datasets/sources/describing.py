"""What a source is about: its task, its spaces and its reference scores, from what it says and what the caller says."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_offline.datasets.bounds import narrows
from sb3_offline.datasets.checks.spaces import check_space
from sb3_offline.datasets.envs import env_from_spec, find_spec
from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.images import other_layout
from sb3_offline.datasets.offline_dataset import DatasetInfo
from sb3_offline.datasets.references import REFERENCE_SCORES
from sb3_offline.datasets.sources.raw import RawSource
from sb3_offline.datasets.sources.task import Task
from sb3_offline.files.refusal import printable


def info_of(raw: RawSource, task: Task) -> DatasetInfo:
    """
    :raises DatasetError: if the spaces are not known, do not agree, or cannot be learned in
    """
    if task.observation_space is not None:
        check_space("observation", task.observation_space, raw.dataset_id)
    if task.action_space is not None:
        check_space("action", task.action_space, raw.dataset_id)
    raw = _without_contradicted_guess(raw, task)
    spec = _spec_of(raw, task)
    inferred = spec is not None and task.env_id is None and raw.env_id_from is not None
    if inferred and spec is not None:
        warnings.warn(
            f"{raw.dataset_id} is taken for {spec.id} from {raw.env_id_from}. Pass env_id= to say which it is.", stacklevel=4
        )
    own_observation, own_action = _own_spaces(raw, spec, task)
    card, derived = dict(raw.card), list[str]()
    if card.pop("derived_spaces", None) is not None:  # of data that are loaded already
        own_observation = own_observation if task.observation_space is None else None
        own_action = own_action if task.action_space is None else None
        kept = {"observations": own_observation, "actions": own_action}
        said = "; ".join(f"{name} in {space}" for name, space in kept.items() if space is not None)
        card |= {"derived_spaces": said} if said else {}
    observation_space = _one_space("observation", task.observation_space, own_observation, raw.dataset_id)
    action_space = _one_space("action", task.action_space, own_action, raw.dataset_id)
    if raw.derive is not None and observation_space is None:
        observation_space = raw.derive("observation")
        derived.append(f"observations in {observation_space}")
    if raw.derive is not None and action_space is None:
        action_space = raw.derive("action")
        derived.append(f"actions in {action_space}")
    if derived:
        card["derived_spaces"] = "; ".join(derived)
        warnings.warn(
            f"{raw.dataset_id}: spaces as the data suggest them: {card['derived_spaces']}. "
            "Give env_id=, or observation_space= and action_space=, to say what they are.",
            stacklevel=4,
        )
    if observation_space is None or action_space is None:
        raise DatasetError(_spaces_unknown(raw))
    check_space("observation", observation_space, raw.dataset_id)
    if not (task.part and "derived_spaces" in card):
        check_space("action", action_space, raw.dataset_id)
    if spec is None and raw.env_id is None:
        spec = task.env_spec
    low, high = raw.reference_min_score, raw.reference_max_score
    if inferred:
        card["env_id_from"] = raw.env_id_from
    known = None if spec is None else REFERENCE_SCORES.get(spec.id)
    if known is not None and (low is None or high is None):
        low, high = known.minimum, known.maximum
        card["reference_scores"] = known.note
    return DatasetInfo(printable(raw.dataset_id), observation_space, action_space, spec, low, high, card, raw.goals)


def _without_contradicted_guess(raw: RawSource, task: Task) -> RawSource:
    """A task that is only guessed, as from a file's name, counts for nothing beside a caller who says otherwise."""
    spec = None if raw.env_id is None else find_spec(raw.env_id)
    given = {"observation": task.observation_space, "action": task.action_space}
    if (
        raw.env_id_from is None
        or task.env_id is not None
        or spec is None
        or not any(space is not None for space in given.values())
    ):
        return raw
    try:
        env = env_from_spec(spec, raw.dataset_id)
    except DatasetError:
        agree = False
    else:
        env.close()
        own = {"observation": env.observation_space, "action": env.action_space}
        agree = all(space is None or same_space(space, own[kind], bounds=kind == "action") for kind, space in given.items())
    named = task.env_spec is None or task.env_spec.id == spec.id
    return raw if agree and named else replace(raw, env_id=None, env_id_from=None)


def _own_spaces(raw: RawSource, spec: EnvSpec | None, task: Task) -> tuple[spaces.Space | None, spaces.Space | None]:
    """The spaces that the data hold, or else those of their task, as far as it can be made here."""
    observation_space, action_space = raw.observation_space, raw.action_space
    if spec is None or (observation_space is not None and action_space is not None):
        return observation_space, action_space
    try:
        env = env_from_spec(spec, raw.dataset_id)
    except DatasetError:
        if task.observation_space is None or task.action_space is None:
            raise  # nobody else says what the spaces are
        return observation_space, action_space
    env.close()
    return (
        env.observation_space if observation_space is None else observation_space,
        env.action_space if action_space is None else action_space,
    )


def _spec_of(raw: RawSource, task: Task) -> EnvSpec | None:
    if task.env_id is None:
        return raw.env_spec or (find_spec(raw.env_id) if raw.env_id else None)
    spec = find_spec(task.env_id)
    if spec is None:
        near = difflib.get_close_matches(task.env_id, gym.registry, n=3)
        hint = f" Near it: {', '.join(near)}." if near else ""
        raise DatasetError(
            f"env_id={task.env_id!r} is not a registered Gymnasium id.{hint} Import the package that registers it."
        )
    return spec


def _spaces_unknown(raw: RawSource) -> str:
    if raw.env_id:
        names = f"names {raw.env_id}, which is not registered here (import the package that registers it)"
    else:
        names = "names no environment and no spaces"
    return (
        f"{raw.dataset_id} {names}, and bounds are never guessed from data. Give env= (to an algorithm) or env_id= of "
        "its task, e.g. 'Hopper-v5', or both observation_space= and action_space=."
    )


def _one_space(kind: str, given: spaces.Space | None, own: spaces.Space | None, dataset_id: str) -> spaces.Space | None:
    """The space that the caller gives, which must agree with the data's own, or else that. Bounds come before none."""
    if kind == "action" and given is not None and own is not None and narrows(own, given):
        return own
    if kind == "action" and given is not None and own is not None and narrows(given, own):
        return given
    if given is not None and own is not None and not same_space(given, own, bounds=kind == "action"):
        raise DatasetError(
            f"{dataset_id}: the {kind} space of the environment, {given}, does not match that of the data, {own}."
        )
    return given if given is not None else own


def same_space(one: spaces.Space, other: spaces.Space, *, bounds: bool) -> bool:
    """Equal but for float precision and where images have their channels; an action's bounds must agree, too."""
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        return one.keys() == other.keys() and all(same_space(one[key], other[key], bounds=bounds) for key in one)
    if not isinstance(one, spaces.Box) or not isinstance(other, spaces.Box):
        return one == other
    if one.shape not in (other.shape, other_layout(other)) or (one.dtype == np.uint8) != (other.dtype == np.uint8):
        return False
    return not bounds or (np.allclose(one.low, other.low) and np.allclose(one.high, other.high))


def joint_task(infos: Sequence[DatasetInfo], task: Task) -> Task:
    """
    What the caller says, with one space for several data sets whose spaces were derived from themselves: what holds them all.

    :raises DatasetError: if their categories differ, so that equal codes mean different things
    """
    first = infos[0]
    for info in infos[1:]:
        if info.card.get("categories") != first.card.get("categories"):
            raise DatasetError(
                f"{first.dataset_id} and {info.dataset_id} hold different categories, {first.card.get('categories')} and "
                f"{info.card.get('categories')}: declare them as categorical columns of equal categories, or make one table."
            )
    if not all("derived_spaces" in info.card for info in infos):
        return task
    kinds = ("observation", "action")
    joint: dict[str, Any] = {f"{kind}_space": _hull([getattr(info, f"{kind}_space") for info in infos]) for kind in kinds}
    return replace(task, **{name: space for name, space in joint.items() if getattr(task, name) is None and space is not None})


def _hull(several: Sequence[spaces.Space]) -> spaces.Space | None:
    """The least space that holds several; None if they are equal, or differ in more than their bounds."""
    if all(space == several[0] for space in several):
        return None
    ranges = [_range_of(space) for space in several]
    lows, highs = [each[0] for each in ranges], [each[1] for each in ranges]
    if len({low.shape for low in lows}) > 1 or any(low.size == 0 for low in lows):
        return None
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    if all(isinstance(space, spaces.Discrete) for space in several):
        return spaces.Discrete(int(high[0] - low[0]) + 1, start=int(low[0]))
    if all(isinstance(space, spaces.MultiDiscrete) for space in several):
        return spaces.MultiDiscrete(high - low + 1, start=low)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)  # fractions, of which a part has none


def _range_of(space: spaces.Space) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each dimension; empty of any other space than those that are derived."""
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return np.array([space.start]), np.array([space.start + space.n - 1])
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return np.empty(0), np.empty(0)
