"""Numbers that a user gives: of the right kind, within their range, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real


class OptionError(ValueError):
    """An option that the constructor would refuse, found elsewhere: in a file, or by ``load``'s arguments."""


@dataclass(frozen=True)
class Interval:
    """Where a number may lie; infinity is in no interval."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below  # a NaN is in none

    def __str__(self) -> str:
        if self == POSITIVE:
            return "be positive and finite"
        if self == NOT_NEGATIVE:
            return "not be negative or infinite"
        if self == FINITE:
            return "be finite"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"lie in {left}{self.low:g}, {self.high:g}{right}"


FINITE = Interval()
POSITIVE = Interval(0.0, open_low=True)
NOT_NEGATIVE = Interval(0.0)
UPDATE_RATE = Interval(0.0, 1.0, open_low=True)  # of a Polyak step
INSIDE_UNIT = Interval(0.0, 1.0, open_low=True, open_high=True)


def check_number(name: str, value: object, interval: Interval = FINITE) -> float:
    """
    :return: the number, NumPy's as Python's
    :raises TypeError: if it is no number
    :raises ValueError: if it lies outside the interval
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    number = float(value)
    if number not in interval:
        raise ValueError(f"{name} must {interval}, got {value!r}.")
    return number


def check_count(name: str, value: object, least: int = 1) -> int:
    """
    :return: the whole number, NumPy's as Python's
    :raises TypeError: if it is no whole number
    :raises ValueError: if it is below ``least``, or does not fit into 64 bits, as logs and files hold it
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if int(value).bit_length() > 63:
        raise ValueError(f"{name} must be below 2**63, got a number of {int(value).bit_length()} bits.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}.")
    return int(value)


def check_steps(total_timesteps: object) -> int:
    """
    :return: the steps, for which 1e5 will do
    :raises TypeError: if it is no number
    :raises ValueError: if it is not whole, or below 1
    """
    number = check_number("total_timesteps", total_timesteps)
    if number < 1 or number % 1 != 0:
        raise ValueError(f"total_timesteps must be a whole number of steps, at least 1; got {total_timesteps!r}.")
    return int(number)


def check_flag(name: str, value: object) -> bool:
    """:raises TypeError: for what is neither True nor False, such as "no", which Python takes for true"""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return value


def check_text(name: str, value: object) -> str:
    """:raises TypeError: for what is no text"""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r}.")
    return value


def check_names(name: str, value: object) -> list[str] | None:
    """
    :return: the texts of a list, a set or the like; None for None
    :raises TypeError: for what is none, such as a single text, which Python takes for a list of its letters
    """
    if value is None:
        return None
    names = None if isinstance(value, str) or not isinstance(value, Iterable) else [*value]
    if names is None or not all(isinstance(each, str) for each in names):
        raise TypeError(
            f"{name} must be a list of names, such as [{value if isinstance(value, str) else 'name'!r}]; got {value!r}."
        )
    return names


def check_entropy(ent_coef: str | float, target_entropy: str | float) -> None:
    """:raises ValueError: for a temperature or its target that SAC cannot read"""
    try:
        if ent_coef != "auto":
            number = float(ent_coef.removeprefix("auto_")) if isinstance(ent_coef, str) else ent_coef
            check_number("ent_coef", number, POSITIVE if isinstance(ent_coef, str) else NOT_NEGATIVE)
        if target_entropy != "auto":
            check_number("target_entropy", float(target_entropy))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'ent_coef must be "auto", "auto_0.1" (learned from 0.1 on) or a number that is not negative, and target_entropy '
            f'"auto" or a finite number; got {ent_coef!r} and {target_entropy!r}.'
        ) from error


_MOST_SEEDS = 10_000


def parse_seeds(text: str) -> list[int]:
    """
    "0-7" or "0,3,5-6" -> the numbers.

    :raises ValueError: for what is not written like that, or names one twice
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(last) >= int(first)):
            raise ValueError(f"seeds are written 0-7 or 0,3,5, not {text!r}.")
        if int(last) - int(first) >= _MOST_SEEDS:
            raise ValueError(f"seeds: {text!r} are more than {_MOST_SEEDS:,}.")
        seeds += range(int(first), int(last) + 1)
    if len({*seeds}) < len(seeds):
        raise ValueError(f"seeds names one twice: {text!r}.")
    return seeds
