"""Data as gymnasium ids, so that ``--env`` alone names data and task."""

from __future__ import annotations

import difflib
import functools
import warnings
from typing import Any

import gymnasium as gym

from sb3_offline.catalogue import BUILTIN_TASKS, NAMESPACE, installed_minari
from sb3_offline.datasets import DatasetError, SpacesOnlyEnv, load_dataset, make_env, open_dataset

MINARI_PREFIX = "minari/"


def gym_id(minari_id: str) -> str:
    """A Minari id as gymnasium takes it, with one slash: ``mujoco/hopper/medium-v0`` is ``minari/mujoco.hopper.medium-v0``."""
    return MINARI_PREFIX + minari_id.removeprefix(MINARI_PREFIX).replace("/", ".")


def register_minari_envs() -> list[str]:
    """
    Register everything in the local Minari store under its :func:`gym_id`. Idempotent; only metadata are read.

    :return: the ids
    """
    ids = []
    for dataset_id in installed_minari():
        env_id = gym_id(dataset_id)
        ids.append(env_id)
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point=f"{__name__}:make_minari_env",
                kwargs={"dataset_id": dataset_id},
                disable_env_checker=True,
            )
    return ids


def make_minari_env(dataset_id: str, **kwargs: Any) -> gym.Env:
    """
    The task of a Minari data set, whose ``unwrapped.get_dataset()`` is that data; where the task cannot be made, an env
    that has only its spaces, with a warning.

    :param kwargs: passed on to ``gymnasium.make``, such as ``render_mode``
    """
    try:
        return make_env(dataset_id, **kwargs)
    except DatasetError as error:
        info = open_dataset(dataset_id).info  # raises if it is the data that cannot be opened
        warnings.warn(f"No simulator, so nothing can be evaluated (--eval-freq -1): {error}", stacklevel=2)
        env = SpacesOnlyEnv(info.observation_space, info.action_space, info.env_spec)
        env.get_dataset = functools.partial(load_dataset, dataset_id)  # type: ignore[attr-defined]
        return env


def resolve_env_id(name: str) -> str:
    """
    The gymnasium id that a user means: a registered id, a packaged data set's name, or a Minari id with all its slashes.

    :raises ValueError: if there is none, with the nearest that there are
    """
    candidates = (name, f"{NAMESPACE}/{name}", gym_id(name))
    for candidate in candidates:
        if candidate in gym.registry:
            return candidate
    near = difflib.get_close_matches(name, gym.registry, n=3, cutoff=0.5)
    hint = f" Near it: {', '.join(near)}." if near else ""
    if name.count("/") > 1 or name.startswith(MINARI_PREFIX):
        plain = name.removeprefix(MINARI_PREFIX)
        raise ValueError(f"{plain!r} is not in the local Minari store.{hint} `minari download {plain}` fetches it.")
    raise ValueError(
        f"{name!r} is neither a gymnasium id nor data.{hint} Packaged: {', '.join(f'{NAMESPACE}/{n}' for n in BUILTIN_TASKS)}."
    )
