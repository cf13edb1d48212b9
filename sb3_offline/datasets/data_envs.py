"""Environments that know their data: those that ids of data stand for."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym

from sb3_offline.datasets.sources import load_dataset, open_dataset


def make_env(dataset_id: Any, **kwargs: Any) -> gym.Env:
    """The environment of the task that a data set was logged on; ``env.unwrapped.get_dataset()`` gives the data.

    :param dataset_id: an id, a file, or any other source that names its task
    :param kwargs: passed on to ``gymnasium.make``, e.g. ``render_mode``
    :raises DatasetError: if the source names no task, or its package is missing
    """
    env = open_dataset(dataset_id).info.make_env(**kwargs)
    env.unwrapped.get_dataset = functools.partial(load_dataset, dataset_id)  # type: ignore[attr-defined]
    return env


def make_builtin_env(dataset_id: str, **kwargs: Any) -> gym.Env:
    """The entry point of the packaged ids: the plain task, which knows its data."""
    return make_env(dataset_id, **kwargs).unwrapped
