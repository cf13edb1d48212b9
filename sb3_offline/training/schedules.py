"""Learning-rate schedules as SB3 takes them: functions of the progress that remains, from 1 down to 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from stable_baselines3.common.type_aliases import Schedule

from sb3_offline.arguments import NOT_NEGATIVE


@dataclass(frozen=True)
class CosineSchedule:
    """
    Half a cosine from ``initial`` to ``final`` (SGDR without restarts, Loshchilov and Hutter 2017); COMBO's actor rate in
    published code.

    :param initial: Rate at the start.
    :param final: Rate at the end.
    :raises ValueError: if one is negative.
    """

    initial: float
    final: float = 0.0

    def __post_init__(self) -> None:
        if min(self.initial, self.final) < 0:
            raise ValueError(f"Rates must not be negative, got initial={self.initial} and final={self.final}.")

    def __call__(self, progress_remaining: float) -> float:
        return self.final + 0.5 * (self.initial - self.final) * (1.0 + math.cos(math.pi * (1.0 - progress_remaining)))


@dataclass(frozen=True)
class HoldThenDecay:
    """
    ``initial`` for a share of training, then linearly down to ``final``: late steps settle the policy.

    :param initial: Rate at the start.
    :param final: Rate at the end.
    :param hold: The share, in [0, 1), during which the rate is held.
    :raises ValueError: if a rate is negative, or the share is not in [0, 1).
    """

    initial: float
    final: float = 0.0
    hold: float = 0.5

    def __post_init__(self) -> None:
        if min(self.initial, self.final) < 0:
            raise ValueError(f"Rates must not be negative, got initial={self.initial} and final={self.final}.")
        if not 0 <= self.hold < 1:
            raise ValueError(f"hold must lie in [0, 1), got {self.hold}.")

    def __call__(self, progress_remaining: float) -> float:
        return self.final + (self.initial - self.final) * min(1.0, progress_remaining / (1.0 - self.hold))


@dataclass(frozen=True)
class ScaledSchedule:
    """``factor`` times another schedule."""

    schedule: Schedule
    factor: float

    def __call__(self, progress_remaining: float) -> float:
        return self.factor * self.schedule(progress_remaining)


_TRIED_AT = (1.0, 0.5, 1e-6)  # of the progress that remains, which training ends just above 0


def check_rate(name: str, rate: object) -> float | Schedule:
    """
    :return: the schedule, or the number, NumPy's as Python's
    :raises ValueError: for what is neither a schedule nor a finite number that is not negative, and for a schedule that fails
        or gives such a number
    """
    if callable(rate):
        return _tried(name, rate)
    if isinstance(rate, Real) and not isinstance(rate, bool) and float(rate) in NOT_NEGATIVE:
        return float(rate)
    hint = " RL-Zoo's texts are for its YAML files: here it is CosineSchedule(1e-4)." if isinstance(rate, str) else ""
    raise ValueError(f"{name} must be a schedule, or a number that is not negative, got {rate!r}.{hint}")


def _tried(name: str, schedule: Schedule) -> Schedule:
    for progress in _TRIED_AT:
        try:
            value: object = schedule(progress)
            number = float(value)  # type: ignore[arg-type]
        except Exception as error:  # of a user's function
            raise ValueError(f"The schedule of {name} fails at {progress:g} of progress remaining: {error}.") from error
        if number not in NOT_NEGATIVE:
            raise ValueError(
                f"The schedule of {name} gives {value!r} at {progress:g} of progress remaining: a rate must not be negative "
                "or infinite."
            )
    return schedule


def rate_afterwards(schedule: Schedule) -> float:
    """The rate of a training that goes on when its schedule has run out: its last value, or where that is 0 its first."""
    return float(schedule(0.0)) or float(schedule(1.0))


def parse_schedule(text: str) -> Schedule | None:
    """``cosine_1e-4`` or ``held_1e-4``, as YAML files write our schedules beside RL-Zoo's; None for other text."""
    name, _, initial = text.partition("_")
    kinds: dict[str, type[CosineSchedule] | type[HoldThenDecay]] = {"cosine": CosineSchedule, "held": HoldThenDecay}
    return kinds[name](float(initial)) if name in kinds else None
