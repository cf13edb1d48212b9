"""Evaluation in environments that say which actions may be chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

METHOD = "action_masks"  # of the environment, as in sb3-contrib


def has_masks(env: Any) -> bool:
    """Whether an environment, or the first of a vector of them, has a method ``action_masks``."""
    if isinstance(env, VecEnv):
        return env.has_attr(METHOD)
    return isinstance(env, gym.Env) and env.has_wrapper_attr(METHOD)


def masks_of(env: Any) -> np.ndarray:
    """The masks of the present states, (n_envs, m), or (m,) of one environment that is no vector."""
    if isinstance(env, VecEnv):
        return np.stack(env.env_method(METHOD))
    return np.asarray(env.get_wrapper_attr(METHOD)())


@contextmanager
def masked_by(model: Any, env: Any) -> Iterator[None]:
    """
    Meanwhile ``model.predict`` chooses among what ``env`` allows in its present state; without masks nothing changes.

    :param model: of which ``predict`` takes ``action_masks``, where the environment has any
    """
    if not has_masks(env) or not hasattr(model, "mask_source"):
        yield
        return
    model.mask_source = lambda: masks_of(env)
    try:
        yield
    finally:
        model.mask_source = None
