"""Which of DROMO's options go together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from sb3_offline.arguments import INSIDE_UNIT, NOT_NEGATIVE, check_count, check_number


def check_size(robustness: str, sizes: Mapping[str, float | None]) -> float:
    """
    The size of the chosen robustness set; 0.1 for "std" if none is given.

    :param robustness: "std", "chi2" or "wasserstein".
    :param sizes: ``robust_weight``, ``chi2_radius`` and ``wasserstein_radius`` as given, in this order.
    :raises ValueError: for a negative size, one that belongs to another set, or a ball without one.
    """
    names = dict(zip(("std", "chi2", "wasserstein"), sizes, strict=True))
    if robustness not in names:
        raise ValueError(f"robustness must be one of {', '.join(names)}, got {robustness!r}.")
    for owner, name in names.items():
        size = sizes[name]
        if size is None:
            continue
        if owner != robustness:
            raise ValueError(f"{name} belongs to robustness={owner!r}, not to {robustness!r}: give {names[robustness]}.")
        check_number(name, size, NOT_NEGATIVE)
    given = sizes[names[robustness]]
    if given is None and robustness != "std":
        raise ValueError(f"robustness={robustness!r} needs {names[robustness]}, the size of its ball; 0 is COMBO.")
    return 0.1 if given is None else float(given)


def refuse_contradictions(
    robustness: str,
    strict: bool,
    visitation: str | None,
    count_scale: str,
    behavior_kwargs: Mapping[str, Any] | None,
    conservative_weight: float | None,
) -> None:
    """
    Options of parts that are not there.

    :raises ValueError: with the reason.
    """
    if strict and robustness != "std":
        raise ValueError(f"strict (Eq 17) is the standard deviation over d_f; it has no robustness={robustness!r}.")
    if strict and visitation not in (None, "constant"):
        raise ValueError(f"strict (Eq 17) has one n for all states; visitation={visitation!r} belongs to Eq 13.")
    if robustness == "wasserstein" and (visitation is not None or count_scale != "reference"):
        raise ValueError("robustness='wasserstein' has one ball for all states: leave out visitation and count_scale.")
    if behavior_kwargs and (strict or robustness == "wasserstein"):
        user = "strict (Eq 17)" if strict else "robustness='wasserstein'"
        raise ValueError(f"behavior_kwargs fits pi_beta, of which {user} draws no actions: leave it out.")
    if robustness != "std" and conservative_weight == 0:
        raise ValueError(f"robustness={robustness!r} is weighed by beta: with conservative_weight=0 it does nothing.")


def warn_if_unused(behavior_kwargs: Mapping[str, Any] | None, size: float) -> None:
    """
    A size of 0, which compares with COMBO, leaves other options as they are: no error.

    :param size: Of the robustness set.
    """
    if behavior_kwargs and size == 0:
        warnings.warn(
            "behavior_kwargs has no effect: it fits pi_beta, of which a robust term of size 0 draws no actions.", stacklevel=3
        )


def split_behavior_kwargs(
    kwargs: Mapping[str, Any] | None, architecture: tuple[str, ...] = ("n_components", "hidden_sizes")
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    What goes to pi_beta's network, and what to its fit.

    :param architecture: Names of the network's options.
    :raises TypeError: for an unknown name, with the nearest known one, or a value of the wrong type.
    :raises ValueError: for a value outside its range.
    """
    known = (*architecture, "n_steps", "batch_size", "holdout_fraction", "eval_every", "patience")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"behavior_kwargs must be a dict, got {kwargs!r}.")
    for name in kwargs or {}:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It takes: {', '.join(known)}."
            raise TypeError(f"behavior_kwargs takes no {name!r}. {hint}")
    given = dict(kwargs or {})
    for name, value in given.items():
        label = f"behavior_kwargs[{name!r}]"
        if name == "hidden_sizes":
            given[name] = tuple(check_count(label, size) for size in value)
        elif name == "holdout_fraction":
            given[name] = check_number(label, value, INSIDE_UNIT)
        else:
            given[name] = check_count(label, value)
    return {k: v for k, v in given.items() if k in architecture}, {k: v for k, v in given.items() if k not in architecture}


def check_lipschitz(lipschitz_weight: float, lipschitz_bound: float | None) -> None:
    """
    A weight and its bound.

    :raises ValueError: for a negative one, or one without the other.
    """
    check_number("lipschitz_weight", lipschitz_weight, NOT_NEGATIVE)
    if lipschitz_bound is not None:
        check_number("lipschitz_bound", lipschitz_bound, NOT_NEGATIVE)
    if (lipschitz_weight > 0) != (lipschitz_bound is not None):
        raise ValueError(
            f"lipschitz_weight={lipschitz_weight} and lipschitz_bound={lipschitz_bound} belong together: a positive weight "
            "needs the slope from which it counts, in units of Q per standard deviation of an observation."
        )
