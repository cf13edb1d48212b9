"""What callbacks have counted, so that those of a resumed run save, evaluate and stop where the uninterrupted run's would."""

from __future__ import annotations

import inspect
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_offline.training.callback_walk import walk

_KNOWN = ("stable_baselines3.", "sb3_offline.", "rl_zoo3.")


def counts_of(callback: BaseCallback) -> list[list[Any]]:
    """The name of each callback, and its numbers by name: of SB3's classes and ours all, of others how often it was called."""
    return [[type(each).__name__, _counts(each)] for each in walk(callback)]


def restore_counts(callback: BaseCallback, saved: Any) -> None:
    """
    Put the numbers back, if these are the same callbacks in the same order; otherwise they begin anew.

    :raises ValueError: for what is no number
    """
    each = list(walk(callback))
    if [name for name, _ in saved] != [type(one).__name__ for one in each]:
        return
    for one, (_, counts) in zip(each, saved, strict=True):
        present = _counts(one)
        for name, value in counts.items():
            if type(value) not in (int, float):
                raise ValueError(f"a callback's {name!r:.80} is no number")
            if name in present:
                setattr(one, name, value)


def _counts(callback: BaseCallback) -> dict[str, int | float]:
    if not type(callback).__module__.startswith(_KNOWN):
        return {"n_calls": callback.n_calls}
    options = {
        name for base in type(callback).__mro__ if "__init__" in vars(base) for name in inspect.signature(base).parameters
    }
    numbers = {name: value for name, value in vars(callback).items() if isinstance(value, (int, float))}
    return {
        name: int(value) if isinstance(value, int) else float(value)
        for name, value in numbers.items()
        if not isinstance(value, bool) and name not in options
    }
