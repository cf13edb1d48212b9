"""Callbacks of SB3 that find nothing to do where nothing is collected."""

from __future__ import annotations

import warnings

from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes

from sb3_offline.training.run import walk

_HOOKS = ("_on_rollout_start", "_on_rollout_end")


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
