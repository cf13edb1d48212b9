"""Callbacks that cannot work are refused before anything is fitted, and those that would wait in vain are named."""

from __future__ import annotations

import warnings
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_offline.training.callback_walk import walk

_HOOKS = ("_on_rollout_start", "_on_rollout_end")


def check_callback(callback: Any) -> None:
    """
    :param callback: as ``learn`` was given it
    :raises TypeError: for what is no callback, such as a class of one
    """
    for each in callback if isinstance(callback, list) else [callback]:
        if each is not None and not isinstance(each, BaseCallback) and (isinstance(each, type) or not callable(each)):
            made = f": make one, {each.__name__}(...)" if isinstance(each, type) else ""
            raise TypeError(f"callback must be a callback, a function or a list of these, got {each!r}{made}.")


def check_evaluation(callback: BaseCallback, model: Any) -> None:
    """
    :raises ValueError: for an ``EvalCallback`` whose env is no task of the model's
    """
    for each in walk(callback):
        if isinstance(each, EvalCallback):
            _check_env(each.eval_env, type(each).__name__, model)


def _check_env(env: VecEnv, name: str, model: Any) -> None:
    for kind in ("observation", "action"):
        space, own = getattr(env, f"{kind}_space"), getattr(model, f"{kind}_space")
        alike = type(space) is type(own) and (space.shape == own.shape or is_image_space(own))
        if not alike or getattr(space, "n", None) != getattr(own, "n", None):
            raise ValueError(f"{name} evaluates in an env with {kind}s in {space}; the model was made for {own}.")
    normalizers = [unwrap_vec_normalize(env), model.get_vec_normalize_env()]
    evaluated, trained = (normalizer is not None and normalizer.norm_obs for normalizer in normalizers)
    if evaluated != trained:
        raise ValueError(
            f"{name} evaluates on {'normalised' if evaluated else 'raw'} observations, and the model trains on "
            f"{'normalised' if trained else 'raw'} ones: wrap both envs in VecNormalize, or neither."
        )


def warn_of_idle(callback: BaseCallback, algorithm: str, imagines: bool) -> None:
    """
    Name the callbacks that wait in vain.

    :param callback: of ``learn``, with all inside it
    :param algorithm: its name, for the messages
    :param imagines: whether the algorithm rolls a model out, which calls the hooks of rollouts
    """
    for each in walk(callback):
        name = type(each).__name__
        if isinstance(each, StopTrainingOnMaxEpisodes):
            warnings.warn(
                f"{name} never stops: it counts collected episodes, and {algorithm}.learn() collects none. Bound the gradient "
                "steps by total_timesteps.",
                stacklevel=4,
            )
        own = [hook for hook in _HOOKS if getattr(type(each), hook) is not getattr(BaseCallback, hook)]
        if own and not imagines and not type(each).__module__.startswith("stable_baselines3."):
            warnings.warn(
                f"{name}.{own[0]} is never called: {algorithm}.learn() collects nothing. _on_step is called after each "
                "gradient step.",
                stacklevel=4,
            )
