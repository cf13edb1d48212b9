"""A callback for each of several models that learn in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_offline.training.callback_walk import walk

SeedsCallback = BaseCallback | Sequence[BaseCallback] | Callable[[int], BaseCallback] | None


def folder_of(seed: int) -> str:
    """Where a member writes, below what all were given."""
    return f"seed_{seed}"


def callbacks_of(callback: SeedsCallback, seeds: Sequence[int]) -> list[BaseCallback | None]:
    """
    One for each seed.

    :param callback: one callback or a list of them, which each member gets a copy of, writing below ``seed_N/``; or a function
        seed -> callback
    :raises TypeError: for one that cannot be copied
    """
    if callback is None:
        return [None for _ in seeds]
    if callable(callback) and not isinstance(callback, BaseCallback):
        return [callback(seed) for seed in seeds]
    return [_copy(callback, seed) for seed in seeds]


def _copy(callback: Any, seed: int) -> Any:
    each = callback if isinstance(callback, (list, tuple)) else [callback]
    parts = [part for one in each for part in walk(one)]
    shared = {id(env): env for part in parts for env in vars(part).values() if isinstance(env, VecEnv)}
    try:
        copied = copy.deepcopy(callback, dict(shared))  # an env is used by one member at a time
    except Exception as error:
        raise TypeError(
            f"callback cannot be copied for each seed ({type(error).__name__}: {error}). Give a function of the seed that "
            "makes one: callback=lambda seed: ..."
        ) from error
    for one in copied if isinstance(copied, (list, tuple)) else [copied]:
        for part in walk(one):
            _write_below(part, folder_of(seed))
    return copied


def _write_below(callback: BaseCallback, folder: str) -> None:
    """Let a copy write where no other does."""
    if isinstance(callback, CheckpointCallback):
        callback.save_path = str(Path(callback.save_path) / folder)
    if isinstance(callback, EvalCallback):
        if callback.best_model_save_path is not None:
            callback.best_model_save_path = str(Path(callback.best_model_save_path) / folder)
        if callback.log_path is not None:
            path = Path(callback.log_path)
            callback.log_path = str(path.parent / folder / path.name)
