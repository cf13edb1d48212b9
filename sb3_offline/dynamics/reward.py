"""A reward function that is known: imagined transitions pay what it says, not what the model forecasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch as th

from sb3_offline.dynamics.user_function import UserFunction

RewardFn: TypeAlias = Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor]
"""(observations (B, o), actions (B, a) in environment units, next observations (B, o)) -> rewards (B,)."""


class UserReward(UserFunction):
    """
    A user's r(s, a, s'), checked at each call.

    :raises ValueError: it returns another shape than (B,) or (B, 1), NaN or infinity, or it raises
    :raises TypeError: it returns no numbers
    """

    role = "reward"

    def read(self, result: Any, next_observations: th.Tensor) -> th.Tensor:
        numbers = isinstance(result, th.Tensor) or (isinstance(result, np.ndarray) and result.dtype.kind in "fiu")
        if not numbers or result.dtype == th.bool:
            found = getattr(result, "dtype", type(result).__name__)
            raise TypeError(f"{self.name} must return a tensor or array of numbers, one a row, but returned {found}.")
        rewards = self.column(result, next_observations).to(next_observations.dtype)
        if not th.isfinite(rewards).all():
            row = int((~th.isfinite(rewards)).nonzero()[0])
            raise ValueError(f"{self.name} returned {float(rewards[row])} in row {row}: rewards must be finite.")
        return rewards


def check_reward(reward: Any) -> None:
    """
    :raises TypeError: neither None nor a callable
    """
    if reward is not None and not callable(reward):
        raise TypeError(
            f"dynamics_kwargs['reward'] must be a callable (obs, act, next_obs) -> rewards, or None for the model's own "
            f"forecast, got {reward!r}."
        )


def resolve_reward(reward: Callable[..., Any] | None) -> RewardFn | None:
    """
    What imagined transitions pay: None is the model's forecast; a callable gets torch tensors, or else numpy arrays:
    observations and next observations (B, o), actions (B, a), in environment units. It returns the task's own rewards (B,),
    ahead of ``reward_scale`` and ``reward_shift``.
    """
    check_reward(reward)
    return None if reward is None else UserReward(reward)
