"""A batch of observations: one tensor, or for a Dict space a tensor for each key; and what an algorithm can learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv

from sb3_offline.networks.choices import CHOICE_SPACES
from sb3_offline.registry import learners

Observations: TypeAlias = th.Tensor | Mapping[str, th.Tensor]

_NATURE_CNN_SIDE = 36  # pixels: the least that its three convolutions leave something of


def map_observations(observations: Observations, function: Callable[[th.Tensor], th.Tensor]) -> Observations:
    """Apply ``function`` to an observation tensor, or to every entry of a dict of them."""
    if isinstance(observations, Mapping):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def take_rows(observations: Observations, rows: slice | th.Tensor | int) -> Observations:
    """:return: the chosen rows of a batch of observations; for an int one row, without the batch dimension"""
    return map_observations(observations, lambda x: x[rows])


def n_rows(observations: Observations) -> int:
    """:return: the batch size"""
    return len(tensors_of(observations)[0])


def tensors_of(observations: Observations) -> list[th.Tensor]:
    """The tensor of each key, or the only one."""
    return list(observations.values()) if isinstance(observations, Mapping) else [observations]


def to_tensors(rows: np.ndarray) -> Observations:
    """Rows of a data set as a tensor that shares their memory, or as a copy of each field of a structured array."""
    if rows.dtype.names is None:
        return th.from_numpy(rows)
    return {key: th.from_numpy(rows[key].copy()) for key in rows.dtype.names}


def has_images(space: spaces.Space) -> bool:
    """Whether the space is one of uint8 images, or a Dict with one of them."""
    return any(map(is_image_space, space.values())) if isinstance(space, spaces.Dict) else is_image_space(space)


def check_observations(
    name: str, policy: Any, env: gym.Env | VecEnv, policy_kwargs: Mapping[str, Any], vectors_only: str | None
) -> None:
    """
    Refuse a policy that does not fit the observations, and images and dicts where only vectors can be learned from.

    :param name: the algorithm's, for the messages
    :param policy: as given: an alias or a class
    :param vectors_only: why the algorithm takes vectors alone, if so
    :raises ValueError: with the reason, and what would do
    """
    space = env.observation_space
    if vectors_only is not None and isinstance(space, spaces.Box) and len(space.shape) == 2:
        raise ValueError(
            f"{name} takes observations of shape (n,), not {space.shape}: {vectors_only}. Flatten the logged ones, and the "
            "env's by gymnasium.wrappers.FlattenObservation."
        )
    is_dict, image = isinstance(space, spaces.Dict), has_images(space)
    for key, member in space.items() if isinstance(space, spaces.Dict) else [("", space)]:
        if isinstance(member, spaces.Discrete | spaces.MultiDiscrete) and np.any(member.start):
            raise ValueError(
                f"{name}: observations{f'[{key!r}]' if key else ''} live in {member}, and SB3 makes only those one-hot that "
                "count from 0: subtract the start from the logged ones, and from the env's by "
                "gymnasium.wrappers.TransformObservation."
            )
    if vectors_only is not None and isinstance(space, CHOICE_SPACES):
        others = ", ".join(learners(action_space=env.action_space, observation_space=space))
        raise ValueError(
            f"{name} takes no {space} as observations: {vectors_only}. {others} can learn from it. Or make it one-hot: "
            "gymnasium.wrappers.FlattenObservation around the env, and in the data the same, such as "
            "numpy.eye(n, dtype=numpy.float32)[observations] of n states."
        )
    by_name = policy in ("CnnPolicy", "MultiInputPolicy")
    if vectors_only is not None and (by_name or is_dict or image):
        what = repr(policy) if by_name else "dict observations" if is_dict else "images"
        others = ", ".join(learners(action_space=env.action_space, beyond_vectors=True))
        raise ValueError(f"{name} takes no {what}: {vectors_only}. For images and dicts there are {others}.")
    if is_dict:
        nested = [key for key, member in space.items() if isinstance(member, spaces.Dict | spaces.Tuple)]  # type: ignore[attr-defined]
        if nested:
            raise ValueError(
                f"{name}: {nested} of {space} are nested spaces, which SB3 does not take. Put all keys on one level."
            )
        if policy in ("MlpPolicy", "CnnPolicy"):
            raise ValueError(f"{policy!r} takes one array, and this task has {space}: use 'MultiInputPolicy'.")
    elif policy == "MultiInputPolicy":
        raise ValueError(f"'MultiInputPolicy' takes a Dict space, and this task has {space}: use 'MlpPolicy' or 'CnnPolicy'.")
    elif policy == "CnnPolicy" and "features_extractor_class" not in policy_kwargs:
        _check_nature_cnn(space, policy_kwargs.get("normalize_images", True))


def check_numbers(observation: Any) -> None:
    """:raises ValueError: for an observation, as ``predict`` takes it, with NaN or infinite numbers"""
    for key, rows in observation.items() if isinstance(observation, Mapping) else [("", observation)]:
        if isinstance(rows, np.ndarray) and np.issubdtype(rows.dtype, np.floating) and not np.isfinite(rows).all():
            place = tuple(map(int, np.argwhere(~np.isfinite(rows))[0]))
            raise ValueError(
                f"The observation{f' {key!r}' if key else ''} holds {rows[place]} at index {list(place)}: no policy has an "
                "action for that. Fill in what is missing as the data do, or act by a rule of your own there."
            )


def check_policy(name: str, policy: Any, known: Collection[str]) -> None:
    """
    :param known: the aliases of the algorithm's policies
    :raises ValueError: for another alias, with what would do
    """
    if isinstance(policy, str) and policy not in known:
        way = ""
        if "lstm" in policy.lower() or "recurrent" in policy.lower():
            way = (
                " Batches are single transitions, without the history that a recurrent policy reads: stack the last "
                "observations in the data, and by gymnasium.wrappers.FrameStackObservation in the env."
            )
        raise ValueError(f"{name} has no policy {policy!r}: take {', '.join(map(repr, known))}.{way}")


def check_actions(name: str, env: gym.Env | VecEnv) -> None:
    """
    Refuse actions that are not one row of numbers.

    :param name: the algorithm's, for the message
    :raises ValueError: with what would do
    """
    space = env.action_space
    if isinstance(space, spaces.Box) and len(space.shape) != 1:
        raise ValueError(
            f"{name} takes actions of shape (n,); this task's have shape {space.shape}. Reshape the logged actions to "
            f"({math.prod(space.shape)},), and the env's by gymnasium.wrappers.TransformAction."
        )


def _check_nature_cnn(space: spaces.Space, normalize_images: bool) -> None:
    if not is_image_space(space, check_channels=False, normalized_image=not normalize_images):
        raise ValueError(
            f"'CnnPolicy' takes images, a uint8 Box of shape (height, width, channels) from 0 to 255; this task has {space}. "
            "Use 'MlpPolicy', or for images that are scaled already policy_kwargs=dict(normalize_images=False)."
        )
    if sorted(space.shape or ())[1] < _NATURE_CNN_SIDE:
        raise ValueError(
            f"{NatureCNN.__name__} needs images of at least {_NATURE_CNN_SIDE} x {_NATURE_CNN_SIDE} pixels; this task has "
            f"{space}. Give policy_kwargs=dict(features_extractor_class=...) with a smaller network."
        )
