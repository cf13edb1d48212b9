"""Environments that belong to data: the task itself, and a stand-in that has only spaces."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import VecEnv

from sb3_offline.datasets.errors import DatasetError
from sb3_offline.datasets.wrappers import first_env, is_transparent
from sb3_offline.files.harmless import refused_arguments, refused_wrappers
from sb3_offline.files.trust import is_trusted


class SpacesOnlyEnv(gym.Env):
    """Stands where a simulator is expected, when there are only data: it can be reset, but not stepped.

    :param observation_space: the data's observation space
    :param action_space: the data's action space
    :param spec: the task's spec, if it is known
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, spec: EnvSpec | None = None) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.spec = spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The observation nearest to zero in the observation space, always the same."""
        super().reset(seed=seed)
        return _zero_of(self.observation_space), {}

    def step(self, action: Any) -> NoReturn:
        """:raises RuntimeError: always"""
        raise RuntimeError(
            "This model was made from data alone: there is no simulator to step. "
            "To evaluate or to collect data, pass the task's environment: env= or model.set_env(...)."
        )


def _zero_of(space: spaces.Space) -> Any:
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, dtype=space.dtype), space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return space.start
    fixed = copy.deepcopy(space)  # any other space: its first sample under a fixed seed
    fixed.seed(0)
    return fixed.sample()


def find_spec(env_id: str) -> EnvSpec | None:
    """The spec registered under an id, or None. Never imports anything, so that ids may come from data files."""
    return gym.registry.get(env_id)


def task_of(env: gym.Env | VecEnv) -> EnvSpec | None:
    """The spec of the task that an env is, with its time limit; None if it has none or a wrapper may change the task."""
    inner = first_env(env)
    if inner is None or (isinstance(env, VecEnv) and env.unwrapped.observation_space != env.observation_space):
        return None
    limit: int | None = None
    while isinstance(inner, gym.Wrapper):
        if not is_transparent(inner):  # RL-Zoo has its own TimeLimit
            return None
        if limit is None:  # the outermost one cuts first
            limit = getattr(inner, "_max_episode_steps", None)
        inner = inner.env
    if inner.spec is None:
        return None
    spec = copy.deepcopy(inner.spec)  # a bare task's: it knows nothing of what is around it
    spec.max_episode_steps, spec.order_enforce = limit, True
    return spec


def _foreign(spec: EnvSpec, registered: EnvSpec) -> str | None:
    """What of a spec is neither registered here nor known to be harmless."""
    if spec.entry_point != registered.entry_point:
        return str(spec.entry_point)
    own = {(wrapper.entry_point, str(wrapper.kwargs)) for wrapper in registered.additional_wrappers}
    wrappers = [(wrapper.entry_point, wrapper.kwargs) for wrapper in spec.additional_wrappers]
    reason = refused_wrappers([(name, kwargs) for name, kwargs in wrappers if (name, str(kwargs)) not in own])
    if reason is not None:
        return reason
    if not isinstance(spec.kwargs, Mapping):
        return refused_arguments(spec.kwargs)
    known = {key: str(value) for key, value in registered.kwargs.items()}
    return refused_arguments({key: value for key, value in spec.kwargs.items() if known.get(key) != str(value)})


#: Wrappers that only note what happens, and cannot be made from a spec.
_RECORDERS = ("stable_baselines3.common.monitor:Monitor",)

#: What gymnasium, and constructors that are given other arguments than theirs, raise of a spec.
_CANNOT_BE_MADE = (gym.error.Error, ImportError, TypeError, ValueError, AttributeError, LookupError)


def env_from_spec(spec: EnvSpec, dataset_id: str, *, trust: bool = False, **kwargs: Any) -> gym.Env:
    """Make a task's environment. A spec that came with data is used only if it names code that is registered here.

    :param spec: the task's spec
    :param dataset_id: who asks, for the messages
    :param trust: also take wrappers and arguments that may write, or read any file
    :param kwargs: passed on to ``gymnasium.make``
    :raises DatasetError: if the id is not registered, a package that it needs is missing, or what it names needs ``trust``
    """
    registered = find_spec(spec.id)
    if registered is None:
        raise DatasetError(
            f"{dataset_id} was made with {spec.id}, which is not registered here: install and import the package "
            "that registers it, or pass an environment of your own."
        )
    kept = tuple(one for one in spec.additional_wrappers if one.entry_point not in _RECORDERS)
    if len(kept) < len(spec.additional_wrappers):
        spec = copy.deepcopy(spec)
        spec.additional_wrappers = kept
    if not is_trusted(trust):
        foreign = _foreign(spec, registered)
        if foreign is not None:
            raise DatasetError(
                f"{dataset_id} asks for code that is not registered for {spec.id}: {foreign}. No code is run, and no file "
                "opened, on the word of a data file: make that environment yourself and pass it, or, if you trust who wrote "
                "the file, say trust=True (--trust)."
            )
    try:
        return gym.make(spec, **kwargs)
    except _CANNOT_BE_MADE as error:
        raise DatasetError(
            f"{dataset_id} belongs to {spec.id}, which cannot be made here: {error}. MuJoCo's tasks need "
            '`pip install "gymnasium[mujoco]"`.'
        ) from error
