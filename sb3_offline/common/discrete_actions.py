"""What every algorithm for discrete actions asks of its task."""

from __future__ import annotations

from typing import ClassVar

from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv

from sb3_offline.common.gradient_algorithm import GradientAlgorithm
from sb3_offline.datasets.sources import Source


class DiscreteActions(GradientAlgorithm):
    """Actions are whole numbers that count from 0, as SB3's DQN has them."""

    supported_spaces: ClassVar = {**GradientAlgorithm.supported_spaces, "action": (spaces.Discrete,)}
    action_space: spaces.Discrete

    def _resolve_env(self, env: GymEnv | str | None, dataset: Source | None, loading: bool) -> GymEnv:
        env = super()._resolve_env(env, dataset, loading)
        start = getattr(getattr(env, "action_space", None), "start", 0)  # no env while loading
        if start != 0:
            raise ValueError(
                f"{type(self).__name__} needs actions that count from 0, as SB3's DQN does; this task's start at {start}. "
                "Wrap the env (gymnasium.wrappers.TransformAction) and subtract it from the logged actions."
            )
        return env
