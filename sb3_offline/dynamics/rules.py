"""
Gymnasium's own rules for the end of an episode, on observations.

Each function takes the keyword arguments that the env was made with and answers a predicate on observations (B, o), or
None where they make the observations say nothing about the end. Bounds are open or closed as in the env's source. A
float32 observation is compared with the bound rounded to float32, so a value that stands on it stands there still.
What an env checks on quantities that it clips or hides in observations (Hopper's velocities beyond 10) is checked on
what is observed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch as th

Ended: TypeAlias = Callable[[th.Tensor], th.Tensor]
EnvKwargs: TypeAlias = Mapping[str, Any]


def never_ended(observations: th.Tensor) -> th.Tensor:
    return th.zeros(len(observations), dtype=th.bool, device=observations.device)


def _never(_kwargs: EnvKwargs) -> Ended:
    return never_ended


def _z_index(kwargs: EnvKwargs, hidden: int) -> int:
    """Index of the torso's height, behind ``hidden`` horizontal positions that usually are not observed."""
    return 0 if kwargs.get("exclude_current_positions_from_observation", True) else hidden


def _unless_ignored(kwargs: EnvKwargs, unhealthy: Ended) -> Ended:
    return unhealthy if kwargs.get("terminate_when_unhealthy", True) else never_ended


def _inside(value: th.Tensor, bounds: tuple[float, float]) -> th.Tensor:
    """In the open interval; NaN is not."""
    return (bounds[0] < value) & (value < bounds[1])


def _hopper(kwargs: EnvKwargs) -> Ended:
    state_range = kwargs.get("healthy_state_range", (-100.0, 100.0))
    z_range = kwargs.get("healthy_z_range", (0.7, math.inf))
    angle_range = kwargs.get("healthy_angle_range", (-0.2, 0.2))
    z = _z_index(kwargs, hidden=1)

    def unhealthy(obs: th.Tensor) -> th.Tensor:
        healthy_state = _inside(obs[:, z + 1 :], state_range).all(dim=1)
        return ~(healthy_state & _inside(obs[:, z], z_range) & _inside(obs[:, z + 1], angle_range))

    return _unless_ignored(kwargs, unhealthy)


def _walker2d(kwargs: EnvKwargs) -> Ended:
    z_range = kwargs.get("healthy_z_range", (0.8, 2.0))
    angle_range = kwargs.get("healthy_angle_range", (-1.0, 1.0))
    z = _z_index(kwargs, hidden=1)
    return _unless_ignored(kwargs, lambda obs: ~(_inside(obs[:, z], z_range) & _inside(obs[:, z + 1], angle_range)))


def _ant(kwargs: EnvKwargs) -> Ended:
    low, high = kwargs.get("healthy_z_range", (0.2, 1.0))
    z = _z_index(kwargs, hidden=2)

    def unhealthy(obs: th.Tensor) -> th.Tensor:  # closed bounds, unlike the others
        return ~(th.isfinite(obs).all(dim=1) & (low <= obs[:, z]) & (obs[:, z] <= high))

    return _unless_ignored(kwargs, unhealthy)


def _humanoid(kwargs: EnvKwargs) -> Ended:
    z_range = kwargs.get("healthy_z_range", (1.0, 2.0))
    z = _z_index(kwargs, hidden=2)
    return _unless_ignored(kwargs, lambda obs: ~_inside(obs[:, z], z_range))


def _inverted_pendulum(_kwargs: EnvKwargs) -> Ended:
    return lambda obs: ~th.isfinite(obs).all(dim=1) | (obs[:, 1].abs() > 0.2)


def _inverted_double_pendulum(kwargs: EnvKwargs) -> Ended | None:
    """The tip's height is <= 1: two poles of length 0.6, whose angles' sines and cosines are observed."""
    if "xml_file" in kwargs:  # other poles
        return None

    def fallen(obs: th.Tensor) -> th.Tensor:
        sin1, sin2, cos1, cos2 = obs[:, 1:5].unbind(dim=1)
        return 0.6 * (cos1 + cos1 * cos2 - sin1 * sin2) <= 1

    return fallen


def _cart_pole(_kwargs: EnvKwargs) -> Ended:
    return lambda obs: (obs[:, 0].abs() > 2.4) | (obs[:, 2].abs() > 12 * math.pi / 180)


def _mountain_car_continuous(kwargs: EnvKwargs) -> Ended:
    goal_velocity = kwargs.get("goal_velocity", 0)
    return lambda obs: (obs[:, 0] >= 0.45) & (obs[:, 1] >= goal_velocity)


TERMINATION_RULES: dict[str, Callable[[EnvKwargs], Ended | None]] = {
    "Ant": _ant,
    "CartPole": _cart_pole,
    "HalfCheetah": _never,
    "Hopper": _hopper,
    "Humanoid": _humanoid,
    "HumanoidStandup": _never,
    "InvertedDoublePendulum": _inverted_double_pendulum,
    "InvertedPendulum": _inverted_pendulum,
    "MountainCarContinuous": _mountain_car_continuous,
    "Pendulum": _never,
    "Pusher": _never,
    "Reacher": _never,
    "Swimmer": _never,
    "Walker2d": _walker2d,
}
"""By the name in Gymnasium's env id, without version: the rules did not change between versions."""
