"""The options that a user gives as ``dynamics_kwargs``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Real
from typing import Any, get_args

from sb3_offline.arguments import INSIDE_UNIT, NOT_NEGATIVE, POSITIVE, Interval, check_count, check_number
from sb3_offline.dynamics.ensemble import weight_decay_per_layer
from sb3_offline.dynamics.recalibration import CalibrationMethod
from sb3_offline.dynamics.reward import check_reward
from sb3_offline.dynamics.termination import Termination, check_termination

BATCH_SIZE, DEPTH, MIN_WIDTH, MAX_WIDTH = 256, 4, 64, 200
EPOCHS, MIN_STEPS, MAX_STEPS = 30, 2_000, 10_000

_INTERVALS = {
    "learning_rate": POSITIVE,
    "logvar_loss_weight": NOT_NEGATIVE,
    "holdout_fraction": INSIDE_UNIT,
    "calibration_fraction": INSIDE_UNIT,
    "test_fraction": Interval(0.0, 0.5),
}


@dataclass(frozen=True)
class DynamicsConfig:
    """
    Options of the dynamics model and of its fit; 7 members and 5 elites are MBPO's and COMBO's, the rest goes by the data.

    :param n_members: networks in the ensemble
    :param n_elites: how many of them, the best on held-out data, are rolled out
    :param hidden_sizes: widths of the hidden layers; None goes by the inputs, see :meth:`sizes`
    :param weight_decay: one float, or one per layer; None is MBPO's: 2.5e-5 at the first layer, rising to 1e-4
    :param learning_rate: Adam's at the start; it falls to 0 over the fit, as half a cosine
    :param batch_size: transitions per member and step; None goes by the data's size, see :meth:`rows_a_step`
    :param holdout_fraction: share of the data held out, at most 1000 transitions
    :param max_epochs: passes over the data; None goes by its size, see :meth:`epochs`
    :param patience: epochs without improvement of any member after which the fit ends before ``max_epochs``; None for never
    :param logvar_loss_weight: pull that keeps the soft bounds of the log-variance tight
    :param termination: "auto", "learned", "never" or a callable, see :func:`~sb3_offline.dynamics.resolve_termination`
    :param reward: a known r(observations, actions, next observations) that imagined transitions pay instead of the model's
        forecast, see :func:`~sb3_offline.dynamics.resolve_reward`
    :param calibration: "none", or recalibrate each member's forecasts by "std", "isotonic" (needs scikit-learn) or
        "scaling-binning", see :mod:`~sb3_offline.dynamics.recalibration`
    :param calibration_fraction: share of the data, at most 5000 transitions, that only the calibration sees
    :param test_fraction: share of the episodes that no fit sees, for the model report
    :raises ValueError: for a value out of range
    :raises TypeError: for a value of the wrong type
    """

    n_members: int = 7
    n_elites: int = 5
    hidden_sizes: tuple[int, ...] | None = None
    weight_decay: float | tuple[float, ...] | None = None
    learning_rate: float = 2e-3
    batch_size: int | None = None
    holdout_fraction: float = 0.2
    max_epochs: int | None = None
    patience: int | None = None
    logvar_loss_weight: float = 0.01
    termination: Termination = "auto"
    reward: Callable[..., Any] | None = None
    calibration: CalibrationMethod = "none"
    calibration_fraction: float = 0.1
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("n_members", "n_elites", "batch_size", "patience", "max_epochs")}
        for name, value in counts.items():
            if not (name in ("max_epochs", "patience", "batch_size") and value is None):
                self._set(name, check_count(f"dynamics_kwargs[{name!r}]", value))
        if self.n_elites > self.n_members:
            raise ValueError(f"dynamics_kwargs['n_elites']={self.n_elites} exceeds n_members={self.n_members}.")

        depth = DEPTH
        if self.hidden_sizes is not None:
            sizes = _as_tuple("hidden_sizes", self.hidden_sizes)
            self._set("hidden_sizes", tuple(check_count("dynamics_kwargs['hidden_sizes']", size) for size in sizes))
            depth = len(sizes)

        if self.weight_decay is not None and not isinstance(self.weight_decay, Real):
            self._set("weight_decay", _as_tuple("weight_decay", self.weight_decay))
        for decay in weight_decay_per_layer(self.weight_decay, depth + 1):
            check_number("dynamics_kwargs['weight_decay']", decay, NOT_NEGATIVE)

        for name, interval in _INTERVALS.items():
            self._set(name, check_number(f"dynamics_kwargs[{name!r}]", getattr(self, name), interval))
        _check_choice("calibration", self.calibration, get_args(CalibrationMethod))
        check_termination(self.termination)
        check_reward(self.reward)

    def sizes(self, n_inputs: int) -> tuple[int, ...]:
        """
        Widths of the hidden layers. By default four, of 200 units (MBPO's) where there are many inputs, and of 16 an input,
        at least 64, where there are few.

        :param n_inputs: observation_dim + action_dim
        """
        if self.hidden_sizes is not None:
            return self.hidden_sizes
        return (min(max(16 * n_inputs, MIN_WIDTH), MAX_WIDTH),) * DEPTH

    def rows_a_step(self, n_rows: int) -> int:
        """
        Transitions per member and step. By default 256, or a quarter of the rows where there are few.

        :param n_rows: transitions to fit to
        """
        if self.batch_size is not None:
            return self.batch_size
        return min(max(n_rows // 4, 1), BATCH_SIZE)

    def epochs(self, n_rows: int) -> int:
        """
        Passes over the data. By default 30, with at least 2,000 steps and at most 10,000: the first counts where there are
        few rows, the second where there are many.

        :param n_rows: transitions to fit to
        """
        if self.max_epochs is not None:
            return self.max_epochs
        n_batches = math.ceil(n_rows / self.rows_a_step(n_rows))
        steps = min(max(EPOCHS * n_batches, MIN_STEPS), MAX_STEPS)
        return max(round(steps / n_batches), 1)

    def _set(self, name: str, value: Any) -> None:
        """In a frozen dataclass, while it is made."""
        object.__setattr__(self, name, value)

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any] | None) -> DynamicsConfig:
        """
        Check a user's mapping. An ensemble of fewer members than the default elites rolls out all of its members.

        :raises TypeError: for an unknown key, naming the nearest known one
        """
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise TypeError(f"dynamics_kwargs must be a dict, got {kwargs!r}.")
        kwargs = dict(kwargs or {})
        known = [field.name for field in fields(cls)]
        for key in kwargs:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise TypeError(f"dynamics_kwargs has no option {key!r}: {hint}Options: {', '.join(known)}.")
        members = kwargs.get("n_members")
        if isinstance(members, int) and 1 <= members < cls.n_elites:
            kwargs.setdefault("n_elites", members)
        return cls(**kwargs)


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(f"dynamics_kwargs[{name!r}] must be a list of numbers, got {value!r}.")
    return tuple(value)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"dynamics_kwargs[{name!r}] must be one of {', '.join(choices)}, got {value!r}.{hint}")
